"""Validate a wagon: what it says of itself, what is in it, and that it installs."""

from __future__ import annotations

import json
import logging
import tempfile
import zipfile
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from build_orchestrator.agent import children
from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.wagon import installing, metadata, pip, wheels
from build_orchestrator.agent.wagon.archive import opened
from build_orchestrator.agent.wagon.errors import Status, WagonError

if TYPE_CHECKING:
    from build_orchestrator.agent.wagon.metadata import Metadata

log = logging.getLogger("build_orchestrator.agent.wagon")


def validate(source: str) -> list[str]:
    """Everything that is wrong with a wagon; nothing where it is good.

    Raises:
        WagonError: it is no wagon, so that nothing else can be said about it.
    """
    with opened(source) as (folder, _):
        described = metadata.read(folder)
        wrong = problems(folder, described)
        if wrong:
            return wrong
        log.info("installing %s in a new environment", described.requirement)
        return _installs(folder, described)


def check(made: Path) -> None:
    """The same as one error.

    Raises:
        WagonError: with everything that is wrong.
    """
    wrong = validate(str(made))
    if wrong:
        raise WagonError(
            Status.FAILED, f"Validation failed! {made.name} was not kept", details="\n".join(wrong)
        )


def problems(folder: Path, described: Metadata) -> list[str]:
    """What can be seen without installing anything."""
    wrong = installing.changed(folder, described)
    for kind, names in ((metadata.WHEELS, described.wheels), (metadata.FILES, described.files)):
        place = folder / kind
        there = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
        wrong += [f"{kind}/{name} is in the archive, and package.json does not know it"
                  for name in there if name not in names]  # fmt: skip
    own = False
    for wheel in described.wheels:
        file = folder / metadata.WHEELS / wheel
        if not file.is_file():
            continue
        try:
            about, platforms = wheels.about(file), wheels.platforms_of(wheel)
            broken = zipfile.ZipFile(file).testzip()
        except PackagerError as error:
            wrong.append(str(error))
            continue
        if broken:
            wrong.append(f"{wheel}: its member {broken} is damaged")
        own = own or _is(about, described)
        if described.supported_platform == wheels.ANY and platforms != [wheels.ANY]:
            wrong.append(f"{wheel} is for {'.'.join(platforms)}, and the wagon says any")
    if not own:
        wrong.append(f"no wheel of {described.requirement} is in the archive")
    return wrong


def _is(about: wheels.About, described: Metadata) -> bool:
    same = canonicalize_name(about.name) == canonicalize_name(described.package_name)
    try:
        return same and Version(about.version) == Version(described.package_version)
    except InvalidVersion:
        return same and about.version == described.package_version


def _installs(folder: Path, described: Metadata) -> list[str]:
    """Install it for real, and see by metadata that it is there and nothing lacks."""
    try:
        installing.check_platform(described)
    except WagonError as error:
        return [f"{error.brief}: {error.details}"]
    with tempfile.TemporaryDirectory(prefix="wagon-") as work:
        environment = pip.make_environment(Path(work) / "env")
        command = pip.of_environment(environment)
        try:
            installing.run(command, folder, described)
            pip.run(command, "check", failed="what it needs is not all there")
        except PackagerError as error:
            return [f"{error.brief}: {error.details}"]
        ask = "import json, sys; print(json.dumps(sys.path))"
        said = children.run(
            [command[0], "-I", "-c", ask], code=Status.FAILED, failed="its Python does not run"
        )
        for item in installed.distributions(path=json.loads(said)):
            if _is(wheels.About(item.metadata["Name"], item.version, ""), described):
                return []
    return [f"{described.requirement} failed to install (Reason unknown)"]
