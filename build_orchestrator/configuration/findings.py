"""Everything that is wrong in a file, with the place of each."""

from __future__ import annotations

from collections.abc import Iterable

from build_orchestrator.errors import ConfigurationError, Problem

Place = tuple[str | int, ...]
"""A path of keys and list positions, such as ``("recipes", "agent", "inputs", 0)``."""

Mark = tuple[int, int]
"""Line and column, 1-based."""


class Findings:
    """Collects problems and knows where each place of the file stands."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._marks: dict[Place, Mark] = {}
        self._found: list[tuple[Place, Problem]] = []

    def locate(self, place: Place, mark: Mark) -> None:
        """Say where a place stands; the first word counts."""
        self._marks.setdefault(place, mark)

    def add(self, place: Place, message: str, mark: Mark | None = None) -> None:
        """Note a problem, at its own mark or at the nearest that is known."""
        line, column = mark or self._nearest_mark(place)
        key = dotted(place) or self.file.rpartition("/")[2]
        self._found.append((place, Problem(self.file, line, column, key, message)))

    def clean(self, place: Place) -> bool:
        """Whether nothing wrong was found at or below a place."""
        return not any(found[: len(place)] == place for found, _ in self._found)

    def raise_any(self) -> None:
        """Raise ConfigurationError with every problem, in the order of the file."""
        if self._found:
            raise ConfigurationError(tuple(sorted({problem for _, problem in self._found})))

    def _nearest_mark(self, place: Place) -> Mark:
        while place and place not in self._marks:
            place = place[:-1]
        return self._marks.get(place, (1, 1))


def dotted(place: Place) -> str:
    """A place as people write it: ``recipes.agent.inputs[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def did_you_mean(word: str, known: Iterable[str], *, nearness: float = 0.6) -> str:
    """The nearest known name as the end of a sentence; all of them where none is near."""
    import difflib

    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), names, n=1, cutoff=nearness)
    if near:
        return f", did you mean {names[near[0]]}?"
    return f"; it can be {', '.join(sorted(names.values()))}" if names else ""
