"""Everything that is wrong in a file, with the place of each and the nearest valid name."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from build_orchestrator.agent.errors import PackagerError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Findings:
    """Collects problems, so that all of them are told at once."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._found: list[tuple[int, int, str, str]] = []

    def add(self, line: int, column: int, key: str, message: str) -> None:
        """Note a problem at a place, 1-based."""
        self._found.append((line, column, key, message))

    def raise_any(self, code: int) -> None:
        """Raise PackagerError with every problem, in the order of the file."""
        if not self._found:
            return
        count = len(self._found)
        lines = []
        for line, column, key, message in sorted(set(self._found)):
            place = f"{self.file}:{line}:{column}" if line else self.file
            lines.append(f"{place}: {key}: {message}")
        raise PackagerError(
            code,
            f"{count} problem{'s' if count != 1 else ''} in {self.file}; nothing was built",
            details="\n".join(lines),
        )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a sentence; all of them where none is near."""
    names = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), names, n=1, cutoff=0.6)
    if near:
        return f", did you mean {names[near[0]]}?"
    return f"; it can be {', '.join(sorted(names.values()))}"
