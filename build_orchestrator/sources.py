"""Sources that packager.yaml names by a path of this host, outside the recipe's inputs.

They are brought into the machine beside the inputs, with a list that says where each one is; the
script looks its sources up there before it takes a path as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from build_orchestrator.configuration.files import place_of
from build_orchestrator.model import Recipe

PACKAGER = "packager.yaml"
FOLDER = "host-sources"
LIST = "list.json"
"""In ``host-sources/``: {as written in packager.yaml: path relative to the inputs}."""

FILE = "requirements_file"
SINGLE = ("cloudify_agent_module", FILE)
NAMED = ("core_modules", "core_plugins", "additional_plugins")
LISTED = ("additional_modules",)


def host_sources(recipe: Recipe, project: Path) -> dict[str, Path]:
    """Each such source as it is written, and where it is on this host.

    What is not there is left to the script, whose message names file, line and key.
    """
    found = {}
    for name in recipe.inputs:
        packager = place_of(project, name)
        if PurePosixPath(name).name == PACKAGER and packager.is_file():
            for written in _paths(packager):
                place = _place(written, project)
                if place is not None and not _is_input(place, recipe, project):
                    found[written] = place
    return found


def places(sources: dict[str, Path]) -> dict[str, PurePosixPath]:
    """Where each source lies below ``$BUILD_INPUTS``."""
    return {
        written: PurePosixPath(FOLDER, str(number), path.name)
        for number, (written, path) in enumerate(sources.items())
    }


def _place(written: str, project: Path) -> Path | None:
    """Where a source is on this host; None where there is nothing, or no path could be that."""
    try:
        place = (project / Path(written).expanduser()).resolve()
        return place if place.exists() else None
    except (OSError, RuntimeError, ValueError):  # An unknown ~user, a loop of links, a NUL.
        return None


def _is_input(place: Path, recipe: Recipe, project: Path) -> bool:
    return any(place.is_relative_to((project / name).resolve()) for name in recipe.inputs)


def _paths(packager: Path) -> Iterator[str]:
    for key, value in _values(packager):
        has_address = "://" in value or " @ " in value
        is_path = key == FILE or value.startswith((".", "/", "~")) or "/" in value
        if is_path and not has_address:
            yield value


def _values(packager: Path) -> Iterator[tuple[str, str]]:
    import yaml

    try:
        content: Any = yaml.safe_load(packager.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return
    if not isinstance(content, dict):
        return
    values = [(key, content.get(key)) for key in SINGLE]
    values += [(key, each) for key in NAMED for each in _mapping(content.get(key)).values()]
    values += [(key, each) for key in LISTED for each in _list(content.get(key))]
    yield from ((key, value) for key, value in values if isinstance(value, str))


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
