"""What a wagon is made of: a name, an address, an archive, or a folder."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from build_orchestrator.agent.errors import without_passwords
from build_orchestrator.agent.wagon.archive import fetched, format_of
from build_orchestrator.agent.wagon.errors import Status, WagonError

LEFT_BEHIND = shutil.ignore_patterns(".tox", ".nox", ".venv", "__pycache__")
PROJECT_FILES = ("pyproject.toml", "setup.py")


@dataclass(frozen=True)
class Source:
    """A source as pip takes it, and as package.json tells it."""

    argument: str
    extras: str
    """``[tls,tests]`` where a name asked for some."""
    told: str
    """Without a path of this host, and without a password."""


def find(source: str, work: Path) -> Source:
    """Understand SOURCE, and copy a folder: making a wheel writes beside what it is made of.

    Raises:
        WagonError: it is nothing that a wagon can be made of.
    """
    if "://" in source and " @ " not in source:
        return _of_address(source, work)
    path = Path(source).expanduser()
    if path.is_dir():
        return _of_folder(path, work)
    if path.is_file():
        _check_archive(path)
        return Source(str(path.absolute()), "", path.name)
    try:
        requirement = Requirement(source)
    except InvalidRequirement as error:
        raise WagonError(
            Status.USAGE,
            f"{source}: there is no such file or folder, and it is no package's name either",
            details=str(error).splitlines()[0],
            resolution="A source is a folder, an archive, an address, or NAME==VERSION.",
        ) from error
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    argument = _in_file(source, work) if requirement.url else source
    told = re.sub("file:[^ ]*/", "", source)  # a folder of this host
    return Source(argument, extras, without_passwords(told))


def _in_file(requirement: str, work: Path) -> str:
    """An argument for pip without what it says: an address may hold a password."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / "source.txt"
    file.touch(mode=0o600)
    file.write_text(f"{requirement}\n", encoding="utf-8")
    return f"--requirement={file}"


def _of_address(address: str, work: Path) -> Source:
    """Fetched here and not by pip: what does not answer is told apart, and a password in an
    address is in no argument, which everybody could see."""
    folder = work / "fetched"
    folder.mkdir(parents=True)
    path = fetched(address, folder)
    _check_archive(path)
    if not path.name.endswith((".zip", ".whl", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
        path = path.rename(path.with_name(f"{path.name}.{format_of(path)}"))
    told = path.name if address.startswith("file:") else without_passwords(address)
    return Source(str(path), "", told)


def _check_archive(path: Path) -> None:
    if not (zipfile.is_zipfile(path) or tarfile.is_tarfile(path)):
        raise WagonError(
            Status.USAGE,
            f"Failed to extract {path.name}. "
            "Please verify that the provided file is a valid zip or tar.gz archive",
            details=str(path),
        )


def _of_folder(path: Path, work: Path) -> Source:
    if not any((path / name).is_file() for name in PROJECT_FILES):
        raise WagonError(
            Status.USAGE,
            f"Source directory must contain a {' or '.join(PROJECT_FILES)} file",
            details=f"There is none in {path.absolute()}.",
        )
    copy = work / "source" / path.resolve().name
    try:
        shutil.copytree(path, copy, symlinks=True, ignore=LEFT_BEHIND)
    except (OSError, shutil.Error) as error:
        raise WagonError(
            Status.USAGE, f"{path}: could not be read", details=str(error)[:500]
        ) from error
    return Source(str(copy), "", path.resolve().name)
