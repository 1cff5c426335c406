"""Wheels: what their names and metadata say, and what they are good for together."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sysconfig
import zipfile
from pathlib import Path
from typing import Iterable, NamedTuple

from packaging import tags
from packaging.metadata import parse_email
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from build_orchestrator.agent.wagon.errors import Status, WagonError

ANY = "any"
LINUX = re.compile(r"(?:linux|manylinux\d+|manylinux_\d+_\d+|musllinux_\d+_\d+)_(\w+)")
"""A Linux platform; its group is the architecture."""
LEGACY = re.compile(r"manylinux(?:1|2010|2014)_\w+")
"""What the tags were called before they carried glibc's version, and all that older tools know."""
GLIBC = re.compile(r"manylinux_(\d+)_(\d+)_\w+")


class About(NamedTuple):
    """What a wheel says of itself."""

    name: str
    """As its author writes it."""
    version: str
    requires_python: str
    """Empty where it does not say."""


def about(wheel: Path) -> About:
    """Name, version and Requires-Python of a wheel, from its metadata.

    Raises:
        WagonError: it is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as zipped:
            inside = [n for n in zipped.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)]
            raw, _ = parse_email(zipped.read(inside[0]))
        return About(raw["name"], raw["version"], raw.get("requires_python", ""))
    except (zipfile.BadZipFile, OSError, IndexError, KeyError) as error:
        raise WagonError(Status.FAILED, f"{wheel.name}: is no wheel", details=str(error)) from error


def in_folder(folder: Path) -> list[Path]:
    """The wheels in a folder, in the order of their names."""
    return sorted(path for path in folder.glob("*.whl") if path.is_file())


def sha256(file: Path) -> str:
    """In hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        for block in iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def requires_python(wheels: Iterable[Path]) -> str:
    """What all of them need of Python, each condition once and in one order."""
    together = SpecifierSet()
    for wheel in wheels:
        with contextlib.suppress(InvalidSpecifier):  # pip passes over it as well
            together &= SpecifierSet(about(wheel).requires_python)
    return str(together)


# --- platforms ------------------------------------------------------------------------------------


def platforms_of(wheel: str) -> list[str]:
    """The platforms that a wheel's name says it is for; more than one for the same thing, often.

    Raises:
        WagonError: it is not called as a wheel is.
    """
    try:
        *_, names = parse_wheel_filename(wheel)
    except InvalidWheelFilename as error:
        raise WagonError(Status.FAILED, f"{wheel}: is no name of a wheel") from error
    return sorted({tag.platform for tag in names})


def common_platform(wheels: Iterable[str]) -> str:
    """The one platform on which all of these work, as the name of a wagon has it.

    Every Linux is called ``linux_<architecture>``: Cloudify Managers up to 5.1 know no other.

    Raises:
        WagonError: one is not called as a wheel is.
    """
    found = [platforms_of(wheel) for wheel in sorted(wheels)]
    bound = [names for names in found if names != [ANY]]
    if not bound:
        return ANY
    for names in bound:
        if any(re.match(r"linux_", name) for name in names):
            return next(name for name in names if name.startswith("linux_"))
    linux = LINUX.fullmatch(bound[-1][0])
    return f"linux_{linux.group(1)}" if linux else ".".join(bound[-1])


def repaired_platform(wheels: Iterable[str]) -> str:
    """The same by the oldest glibc that all of these work with; the plain one without any.

    The name from before glibc's version was in it wins where there is one: the original tool
    refuses to install ``manylinux_2_17_x86_64``, and takes ``manylinux2014_x86_64``, the same.
    """
    wheels = list(wheels)
    newest, choice = (-1, -1), ""
    for names in map(platforms_of, wheels):
        if any(name.startswith("linux_") for name in names):
            return common_platform(wheels)
        for glibc in filter(None, map(GLIBC.fullmatch, names)):
            needs = int(glibc.group(1)), int(glibc.group(2))
            oldest = min(
                (int(each.group(1)), int(each.group(2)))
                for each in filter(None, map(GLIBC.fullmatch, names))
            )
            if needs == oldest and needs > newest:
                legacy = [name for name in names if LEGACY.fullmatch(name)]
                newest, choice = needs, legacy[-1] if legacy else glibc.group(0)
    return choice or common_platform(wheels)


def this_platform() -> str:
    """Of the running interpreter, as wagons write it."""
    return re.sub(r"[-.]", "_", sysconfig.get_platform())


def fits_here(platform: str) -> bool:
    """Whether what is for a platform (or one of several, with dots between) works here."""
    here = {ANY, this_platform(), *tags.platform_tags()}
    return not here.isdisjoint(platform.split("."))
