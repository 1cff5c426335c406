"""``images.lock.yaml``: what every host starts from alike, since every host can fetch it.

Which image a name meant when ``build lock`` asked: one such as ``debian-12-amd64-*`` means another
every few weeks. And which images ``build bake`` has made in AWS. Disks and boxes of one host are in
its cache's own index (``image/baked.py``).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from build_orchestrator.cache import write_whole
from build_orchestrator.configuration.findings import Findings
from build_orchestrator.configuration.reading import read_as
from build_orchestrator.configuration.shapes import entry
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import HostNotReady
from build_orchestrator.image import describe
from build_orchestrator.image.baked import Baked, all_images
from build_orchestrator.locks import locked as holding
from build_orchestrator.locks import state_home
from build_orchestrator.model import ImageSource, Input, Target

FILE = "images.lock.yaml"
SCHEMA = 1
HEAD = """\
# What names of images mean (`build lock`), and which images were baked in AWS (`build bake`).
# To be committed: `build up` starts from these, on every host.
"""
WRITE_S = 30.0
"""How long to wait for others who write it at the same time."""

Key = tuple[str, str, str]
"""The image as declared, its region and its architecture."""

_AMI: dict[str, Any] = {
    "pattern": "ami-[0-9a-f]{8,17}",
    "wanted": "an id such as ami-0123456789abcdef0",
}
_WHEN = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, kw_only=True)
class Locked:
    """One image of AWS."""

    image: str = entry("As targets.yaml has it: an id, `owner/name`, or a parameter.", filled=True)
    region: str = entry("Where it is.", filled=True)
    arch: str = entry("Of the machines.", filled=True)
    ami: str = entry("Its id.", **_AMI)
    name: str = entry("As its maker called it.", default="")
    created: str = entry("When it was made.", default="")

    @property
    def key(self) -> Key:
        return self.image, self.region, self.arch


@dataclass(frozen=True, kw_only=True)
class LockedBake:
    """One image that was baked in AWS: there is one of each target, flavour and region."""

    target: str = entry("For which target.", filled=True)
    distro: str = entry("Of which distro.", filled=True)
    flavour: str = entry("What was baked into it.", filled=True)
    region: str = entry("Where it is.", filled=True)
    ami: str = entry("Its id.", **_AMI)
    size_gib: int = entry("How large its disks are.", default=0, minimum=0)
    base: str = entry("What it was made of.", default="")
    made: str = entry(
        "When it was made.",
        pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
        wanted="a time such as 2026-11-21T01:45:00Z",
    )
    packer: str = entry("Which Packer made it.", default="")
    run: str = entry("Which run of `build bake` made it.", default="")
    key: str = entry("Over all inputs: it is fresh while they have this key.", filled=True)
    inputs: Mapping[str, str] = entry("Everything declared that can change it.", default={})
    packages: Mapping[str, str] = entry("What is installed in it.", default={})

    @property
    def place(self) -> tuple[str, str, str]:
        return self.target, self.flavour, self.region


@dataclass(frozen=True, kw_only=True)
class LockFile:
    """The whole file."""

    schema: int = entry("Version of this file's shape.", minimum=SCHEMA, maximum=SCHEMA)
    amis: tuple[Locked, ...] = entry("Images of AWS.", default=())
    baked: tuple[LockedBake, ...] = entry("Images that were baked in AWS.", default=())


def key_of(target: Target, region: str) -> Key:
    """Under which key the image of a target is locked."""
    return describe(target.image), region, target.distro.arch


def read(project: Path) -> dict[Key, Locked]:
    """What is locked; nothing where there is no lock.

    Raises:
        ConfigurationError: with every problem in the file.
        HostNotReady: it cannot be read.
    """
    return {row.key: row for row in _read(project).amis}


def baked_in(project: Path) -> list[Baked]:
    """The images that were baked in AWS, as the lock has them; it does not know their endpoint.

    Raises: as ``read``.
    """
    return [
        Baked(
            project=str(project),
            target=row.target,
            distro=row.distro,
            provider="aws",
            flavour=row.flavour,
            region=row.region,
            key=row.key,
            inputs=tuple(Input(name=name, value=value) for name, value in row.inputs.items()),
            base=row.base,
            made_at=datetime.strptime(row.made, _WHEN).replace(tzinfo=UTC).timestamp(),
            packer=row.packer,
            run_id=row.run,
            size_bytes=row.size_gib << 30,
            ami=row.ami,
            packages=row.packages,
        )
        for row in _read(project).baked
    ]


def known_images(target: Target, project: Path) -> list[Baked]:
    """The baked images that machines of a target may start from: those of AWS as the lock has them,
    others as this host's index has them.

    Raises: as ``read``.
    """
    return baked_in(project) if target.provider == "aws" else all_images()


def write(project: Path, locked: Iterable[Locked]) -> None:
    """Lock these, and nothing else of what names mean: whole, or not at all.

    Raises:
        HostNotReady: it cannot be written.
    """
    rows = tuple(sorted(locked, key=lambda each: each.key))
    _change(project, lambda lock: dataclasses.replace(lock, amis=rows))


def write_baked(project: Path, image: Baked) -> None:
    """Lock an image of AWS that was baked, in place of the one before it.

    Raises: as ``read`` and ``write``.
    """
    row = LockedBake(
        target=image.target,
        distro=image.distro,
        flavour=image.flavour,
        region=image.region,
        ami=image.ami,
        size_gib=image.size_bytes >> 30,
        base=image.base,
        made=datetime.fromtimestamp(image.made_at, UTC).strftime(_WHEN),
        packer=image.packer,
        run=image.run_id,
        key=image.key,
        inputs={each.name: each.value for each in image.inputs},
        packages=dict(image.packages),
    )

    def with_it(lock: LockFile) -> LockFile:
        others = (each for each in lock.baked if each.place != row.place)
        rows = tuple(sorted((*others, row), key=lambda each: each.place))
        return dataclasses.replace(lock, baked=rows)

    _change(project, with_it)


def _read(project: Path) -> LockFile:
    path = project / FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return LockFile(schema=SCHEMA)
    except OSError as error:
        raise HostNotReady(f"{path} cannot be read: {error.strerror}") from error
    findings = Findings(FILE)
    rows = read_as(LockFile, content, findings) or LockFile(schema=SCHEMA)
    known: set[object] = set()
    for position, row in enumerate(rows.amis):
        if row.key in known:
            findings.add(("amis", position), f"{row.image} in {row.region} is locked twice")
        known.add(row.key)
    for position, bake in enumerate(rows.baked):
        if bake.place in known:
            findings.add(("baked", position), f"{bake.target} in {bake.region} is locked twice")
        known.add(bake.place)
    findings.raise_any()
    return rows


def _change(project: Path, change: Callable[[LockFile], LockFile]) -> None:
    """Read, change and write the file; who does so at the same time comes after."""
    import yaml

    # Another user's orchestrator has another state folder, and so another lock: of two users who
    # write at the same moment one wins, and the file is whole all the same.
    path = project / FILE
    name = hashlib.sha256(str(project.resolve()).encode()).hexdigest()[:32]
    with holding(
        state_home() / "locks" / f"images-{name}", deadline=Deadline("image", WRITE_S, FILE)
    ):
        content = dataclasses.asdict(change(_read(project)))
        text = HEAD + yaml.safe_dump(
            {name: value for name, value in content.items() if name != "baked" or value},
            sort_keys=False,
            width=1000,
        )
        try:
            write_whole(path, text)
        except OSError as error:
            raise HostNotReady(f"{path} cannot be written: {error.strerror}") from error


def with_lock(target: Target, locked: Mapping[Key, Locked]) -> Target:
    """The target with the id that is locked for its image, where one is."""
    found = locked.get(key_of(target, target.options.get("region", "")))
    if target.provider != "aws" or found is None or target.image.ami:
        return target
    image: ImageSource = dataclasses.replace(target.image, ami=found.ami)
    return dataclasses.replace(target, image=image)
