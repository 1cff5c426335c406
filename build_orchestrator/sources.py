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

SINGLE = ("cloudify_agent_module", "requirements_file")
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
                place = (project / Path(written).expanduser()).resolve()
                if place.exists() and not _is_input(place, recipe, project):
                    found[written] = place
    return found


def places(sources: dict[str, Path]) -> dict[str, PurePosixPath]:
    """Where each source lies below ``$BUILD_INPUTS``."""
    return {
        written: PurePosixPath(FOLDER, str(number), path.name)
        for number, (written, path) in enumerate(sources.items())
    }


def _is_input(place: Path, recipe: Recipe, project: Path) -> bool:
    return any(place.is_relative_to((project / name).resolve()) for name in recipe.inputs)


def _paths(packager: Path) -> Iterator[str]:
    for value in _values(packager):
        has_address = "://" in value or " @ " in value
        if not has_address and (value.startswith((".", "/", "~")) or "/" in value):
            yield value


def _values(packager: Path) -> Iterator[str]:
    import yaml

    try:
        content: Any = yaml.safe_load(packager.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return
    if not isinstance(content, dict):
        return
    values = [content.get(key) for key in SINGLE]
    values += [each for key in NAMED for each in _mapping(content.get(key)).values()]
    values += [each for key in LISTED for each in _list(content.get(key))]
    yield from (value for value in values if isinstance(value, str))


def _mapping(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
