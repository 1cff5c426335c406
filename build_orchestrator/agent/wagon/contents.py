"""Look into a wagon."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from build_orchestrator.agent.findings import did_you_mean
from build_orchestrator.agent.wagon import metadata
from build_orchestrator.agent.wagon.archive import opened
from build_orchestrator.agent.wagon.errors import Status, WagonError

if TYPE_CHECKING:
    import os


def show(source: str) -> dict[str, Any]:
    """Everything that a wagon says of itself, as it says it.

    Raises:
        WagonError: it is no wagon.
    """
    with opened(source) as (folder, _):
        return metadata.read_raw(folder)


def list_files(source: str) -> list[str]:
    """The names of the files that were added to a wagon.

    Raises:
        WagonError: it is no wagon.
    """
    with opened(source) as (folder, _):
        return list(metadata.read(folder).files)


def get_file(source: str, filename: str, output_directory: str | os.PathLike[str] = ".") -> Path:
    """Copy a file that was added to a wagon into a folder, and return its absolute path.

    Raises:
        WagonError: there is no such file in it, or it cannot be written.
    """
    with opened(source) as (folder, _):
        there = metadata.read(folder).files
        place = folder / metadata.FILES / filename
        if filename not in there or not place.is_file():
            hint = did_you_mean(filename, there) if there else "; no file was added to this wagon"
            raise WagonError(Status.FAILED, f"{filename}: the file does not exist{hint}")
        target = Path(output_directory).absolute() / filename
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place, target)
        except OSError as error:
            raise WagonError(Status.USAGE, f"{target}: {error.strerror}") from error
        return target
