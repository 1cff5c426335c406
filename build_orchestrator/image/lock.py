"""``images.lock.yaml``: which image a name meant when ``build lock`` asked, for every host alike.

A name such as ``debian-12-amd64-*`` means another image every few weeks. What stands in the lock is
what ``build up`` starts from, until somebody locks again. Only what every host can fetch is in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator.configuration.findings import Findings
from build_orchestrator.configuration.reading import read_as
from build_orchestrator.configuration.shapes import entry
from build_orchestrator.errors import HostNotReady
from build_orchestrator.image import describe
from build_orchestrator.model import ImageSource, Target

FILE = "images.lock.yaml"
SCHEMA = 1
HEAD = """\
# What names of images mean. Written by `build lock`, to be committed; `build up` starts from these.
"""

Key = tuple[str, str, str]
"""The image as declared, its region and its architecture."""


@dataclass(frozen=True, kw_only=True)
class Locked:
    """One image of AWS."""

    image: str = entry("As targets.yaml has it: an id, `owner/name`, or a parameter.", filled=True)
    region: str = entry("Where it is.", filled=True)
    arch: str = entry("Of the machines.", filled=True)
    ami: str = entry(
        "Its id.", pattern="ami-[0-9a-f]{8,17}", wanted="an id such as ami-0123456789abcdef0"
    )
    name: str = entry("As its maker called it.", default="")
    created: str = entry("When it was made.", default="")

    @property
    def key(self) -> Key:
        return self.image, self.region, self.arch


@dataclass(frozen=True, kw_only=True)
class LockFile:
    """The whole file."""

    schema: int = entry("Version of this file's shape.", minimum=SCHEMA, maximum=SCHEMA)
    amis: tuple[Locked, ...] = entry("Images of AWS.", default=())


def key_of(target: Target, region: str) -> Key:
    """Under which key the image of a target is locked."""
    return describe(target.image), region, target.distro.arch


def read(project: Path) -> dict[Key, Locked]:
    """What is locked; nothing where there is no lock.

    Raises:
        ConfigurationError: with every problem in the file.
        HostNotReady: it cannot be read.
    """
    path = project / FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise HostNotReady(f"{path} cannot be read: {error.strerror}") from error
    findings = Findings(FILE)
    rows = read_as(LockFile, content, findings)
    locked: dict[Key, Locked] = {}
    for position, row in enumerate(rows.amis if rows else ()):
        if row.key in locked:
            findings.add(("amis", position), f"{row.image} in {row.region} is locked twice")
        locked[row.key] = row
    findings.raise_any()
    return locked


def write(project: Path, locked: Iterable[Locked]) -> None:
    """Write the lock: whole, or not at all.

    Raises:
        HostNotReady: it cannot be written.
    """
    import yaml

    rows = [dataclasses.asdict(each) for each in sorted(locked, key=lambda each: each.key)]
    text = HEAD + yaml.safe_dump({"schema": SCHEMA, "amis": rows}, sort_keys=False)
    path, aside = project / FILE, project / f".{FILE}"
    try:
        aside.write_text(text)
        aside.replace(path)
    except OSError as error:
        raise HostNotReady(f"{path} cannot be written: {error.strerror}") from error


def with_lock(target: Target, locked: Mapping[Key, Locked]) -> Target:
    """The target with the id that is locked for its image, where one is."""
    found = locked.get(key_of(target, target.options.get("region", "")))
    if target.provider != "aws" or found is None or target.image.ami:
        return target
    image: ImageSource = dataclasses.replace(target.image, ami=found.ami)
    return dataclasses.replace(target, image=image)
