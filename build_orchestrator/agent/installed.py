"""What is installed in an environment, by its metadata: never by the text that a tool prints."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Iterable, Mapping

from build_orchestrator.agent.addresses import noted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.requirements import Requirement

    from build_orchestrator.agent.modules import Module


def site_folders(env: Path) -> list[Path]:
    """Where the modules of an environment are, each once: lib64 may be a link to lib."""
    found = sorted(env.glob("lib*/python3*/site-packages"))
    return [path for path in found if not path.parent.parent.is_symlink()]


def distributions(env: Path) -> dict[str, metadata.Distribution]:
    """What is installed below an environment, by normalised name."""
    return in_folders(site_folders(env))


def in_folders(folders: Iterable[Path]) -> dict[str, metadata.Distribution]:
    """What is installed in folders of modules, by normalised name."""
    from packaging.utils import canonicalize_name

    found = metadata.distributions(path=[str(path) for path in folders])
    return {canonicalize_name(str(item.metadata["Name"])): item for item in found}


def requirement_of(module: Module) -> Requirement | None:
    """The requirement that a module is; None where it is a bare address or path."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(module.source)
    except InvalidRequirement:
        return None


def wanting(
    modules: Iterable[Module],
    there: Mapping[str, metadata.Distribution],
    marks: Mapping[str, str],
) -> Iterator[str]:
    """Everything asked for that is not there, or not in a version asked for.

    Args:
        marks: the environment for markers, such as ``python_version``, of the built interpreter.
    """
    for module in modules:
        yield from _wanting(module, there, marks)


def _wanting(
    module: Module, there: Mapping[str, metadata.Distribution], marks: Mapping[str, str]
) -> Iterator[str]:
    from packaging.utils import canonicalize_name

    requirement = requirement_of(module)
    if requirement and requirement.marker and not requirement.marker.evaluate(dict(marks)):
        return
    name = requirement.name if requirement else module.name
    if not name:
        if not from_source(module, there):
            yield f"{module.source}: nothing was installed from it"
        return
    found = there.get(canonicalize_name(name))
    if found is None:
        yield f"{name}: not installed"
    elif requirement and not requirement.specifier.contains(found.version, prereleases=True):
        yield f"{name}: {found.version} is installed, {module.source} was asked for"


def from_source(module: Module, there: Mapping[str, metadata.Distribution]) -> str:
    """The normalised name of what a bare address or path has given; empty where nothing."""
    for name, item in there.items():
        note = item.read_text("direct_url.json")
        here = module.source if "://" in module.source else Path(module.source).absolute().as_uri()
        if note and noted(json.loads(note)["url"]) == noted(here):
            return name
    return ""


def names_of(
    modules: Iterable[Module], there: Mapping[str, metadata.Distribution]
) -> Iterator[str]:
    """The normalised name of each module asked for that is there."""
    from packaging.utils import canonicalize_name

    for module in modules:
        requirement = requirement_of(module)
        given = requirement.name if requirement else module.name
        name = canonicalize_name(given) if given else from_source(module, there)
        if name in there:
            yield name


def top_level(item: metadata.Distribution) -> list[str]:
    """The names under which a distribution's modules are imported."""
    said = item.read_text("top_level.txt")
    if said is not None:
        names = set(said.split())
    else:
        files = [path.parts for path in item.files or () if path.suffix in (".py", ".so")]
        names = {parts[0].split(".")[0] for parts in files if parts[0] not in ("..", "")}
    return sorted(name for name in names if name.isidentifier() and not name.startswith("_"))
