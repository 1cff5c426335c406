"""Where the files that a project names are: its own first, else the shipped ones, file by file.

A wheel carries vagrant/, packer/, provision/ and packager.yaml, so that a project of nothing but a
targets.yaml can be built; whatever it has of these itself comes before them.
"""

from __future__ import annotations

import errno
from pathlib import Path

from build_orchestrator.errors import UsageError

SHIPPED = Path(__file__).parents[1] / "_project"


def places_of(project: Path, name: str) -> tuple[Path, ...]:
    """Every place that a name means, the project's own first; none where there is nothing.

    A folder may have two. What lies in both of them is the project's own.
    """
    found: dict[Path, Path] = {}
    for place in (project / name, SHIPPED / name):
        if is_there(place):
            found.setdefault(place.resolve(), place)
    return tuple(found.values())


def is_there(place: Path) -> bool:
    """Whether something lies there; under a name that no file system takes, nothing can."""
    try:
        return place.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def place_of(project: Path, name: str) -> Path:
    """The first of them; where there is none, where the project should have it."""
    return next(iter(places_of(project, name)), project / name)


def text_of(project: Path | None, name: str) -> str:
    """The text of a file; without a project, of the shipped one.

    Raises:
        UsageError: it cannot be read.
    """
    place = place_of(project or SHIPPED, name)
    try:
        return place.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{place} cannot be read: {error}") from error
