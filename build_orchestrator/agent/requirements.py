"""The requirements file: where it is, and what its lines ask for."""

from __future__ import annotations

import re
from pathlib import Path

from build_orchestrator.agent import addresses
from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.modules import Module, is_path, place_of


def find(source: str, base: Path, work: Path) -> Path:
    """The requirements file, fetched into ``work`` where it is an address.

    Raises:
        PackagerError: it is not there, or does not answer.
    """
    if "://" not in source:
        path = place_of(source, base)
        if not path.is_file():
            raise PackagerError(
                Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE,
                f"requirements_file: {source}: there is no {path}",
            )
        return path
    path = work / "requirements.txt"
    try:
        addresses.fetch(source, path)
    except (OSError, ValueError) as error:
        raise PackagerError(
            Code.COULD_NOT_DOWNLOAD_FILE,
            f"requirements_file: {source}: could not be fetched",
            details=str(error),
        ) from error
    return path


def listed(file: Path) -> list[Module]:
    """What the lines of a file ask for; its options, and files that it names, are the installer's.

    Raises:
        PackagerError: it is no text, or names a path: nobody would know what that is relative to.
    """
    failed = Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PackagerError(failed, f"{file}: cannot be read: {error}") from error
    lines = re.sub(r"\\\n", " ", text).splitlines()
    # A comment begins a line or follows a space, and so do the options of a requirement.
    asked = [re.split(r"(?:^|\s)(?:#|--)", line.strip())[0].strip() for line in lines]
    paths = [line for line in asked if line.startswith("-e") or (line[:1] != "-" and is_path(line))]
    if paths:
        raise PackagerError(
            failed,
            f"{file}: paths cannot be in a requirements file",
            details="\n".join(paths),
            resolution="Name them in additional_modules.",
        )
    return [Module("", line) for line in asked if line[:1] not in ("", "-")]
