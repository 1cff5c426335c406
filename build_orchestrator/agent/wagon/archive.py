"""Wagons as files: read without trusting what is in them, written so that bytes can be compared."""

from __future__ import annotations

import contextlib
import re
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO, Iterator, NamedTuple

from build_orchestrator.agent import addresses
from build_orchestrator.agent.archives import source_date_epoch, write_tar_gz, write_zip
from build_orchestrator.agent.errors import without_passwords
from build_orchestrator.agent.wagon.errors import Status, WagonError

FORMATS = ("zip", "tar.gz")
SCHEMES = ("file", "http", "https")


class Opened(NamedTuple):
    """A wagon that is unpacked."""

    folder: Path
    """The one folder in it, with package.json."""
    archive_format: str


@contextlib.contextmanager
def opened(source: str) -> Iterator[Opened]:
    """A wagon, unpacked for as long as it is needed.

    Args:
        source: a path, or an address of http, https or file.

    Raises:
        WagonError: it is not there, is no archive, or would write outside of its folder.
    """
    with tempfile.TemporaryDirectory(prefix="wagon-") as folder:
        into = Path(folder) / "wagon"
        into.mkdir()
        file = fetched(source, Path(folder)) if "://" in source else Path(source).expanduser()
        if not file.is_file():
            raise WagonError(Status.USAGE, f"{source}: there is no such file")
        try:
            archive_format = format_of(file)
            _unpack(file, archive_format, into)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, RuntimeError) as error:
            raise _no_archive(source, str(error)) from error
        tops = sorted(path.name for path in into.iterdir())
        if len(tops) != 1 or not (into / tops[0]).is_dir():
            raise WagonError(
                Status.FAILED,
                f"{without_passwords(source)}: is no wagon: it holds not just one folder",
                details="\n".join(tops[:20]),
            )
        yield Opened(into / tops[0], archive_format)


def fetched(address: str, folder: Path) -> Path:
    """What an address answers, as a file in a folder.

    Raises:
        WagonError: the scheme is none of ours, or it does not answer.
    """
    shown = without_passwords(address)
    scheme = address.partition("://")[0]
    if scheme not in SCHEMES:
        raise WagonError(
            Status.USAGE,
            f"Source URL type {scheme} is not supported",
            details=shown,
            resolution=f"It can be one of {', '.join(SCHEMES)}.",
        )
    file = folder / (PurePosixPath(address.partition("?")[0]).name or "download")
    try:
        addresses.fetch(address, file)
    except (OSError, ValueError) as error:
        refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
        raise WagonError(
            Status.USAGE if refused or scheme == "file" else Status.ENVIRONMENT,
            f"{shown}: could not be fetched",
            details=str(error),
            resolution="Is the address right, and does it answer from this host?",
        ) from error
    return file


def format_of(file: Path) -> str:
    """``zip`` or ``tar.gz``, by what a file holds and not by what it is called.

    Raises:
        WagonError: it is neither.
    """
    if zipfile.is_zipfile(file):
        return "zip"
    if tarfile.is_tarfile(file):
        return "tar.gz"
    raise _no_archive(str(file), "it is neither")


def write(archive: Path, tree: Path, archive_format: str) -> None:
    """Write a folder as a wagon, whole or not at all; only names and contents decide the bytes.

    Raises:
        PackagerError: it could not be written.
    """
    writing = write_zip if archive_format == "zip" else write_tar_gz
    writing(archive, tree, tree.name, source_date_epoch())


def _no_archive(source: str, reason: str) -> WagonError:
    name = PurePosixPath(source).name
    return WagonError(
        Status.FAILED,
        f"Failed to extract {name}. "
        "Please verify that the provided file is a valid zip or tar.gz archive",
        details=without_passwords(f"{source}: {reason}"),
    )


def _unpack(file: Path, archive_format: str, into: Path) -> None:
    if archive_format == "zip":
        with zipfile.ZipFile(file) as zipped:
            for info in zipped.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _dangerous(file, info.filename, "is neither a file nor a folder")
                place = _place(file, info.filename, into)
                if not info.is_dir():
                    with zipped.open(info) as content:
                        _copy(file, info.filename, content, place)
        return
    with tarfile.open(file) as tar:
        for member in tar:
            if not (member.isfile() or member.isdir()):
                raise _dangerous(file, member.name, "is neither a file nor a folder")
            place = _place(file, member.name, into)
            read = tar.extractfile(member)
            if read is not None:
                with read:
                    _copy(file, member.name, read, place)


def _place(file: Path, name: str, into: Path) -> Path:
    """Where a member goes: below a folder, whatever it is called."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\\0]|^\w:", name):
        raise _dangerous(file, name, "lies outside of the archive's own folder")
    return into.joinpath(*parts)


def _copy(file: Path, name: str, content: IO[bytes], place: Path) -> None:
    if place.exists():
        raise _dangerous(file, name, "is there twice")
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as copy:
        shutil.copyfileobj(content, copy)


def _dangerous(file: Path, name: str, reason: str) -> WagonError:
    return WagonError(
        Status.FAILED,
        f"{file.name} is not to be trusted: its member {name!r} {reason}",
        resolution="Nothing was taken from it. Ask whoever made it for another one.",
    )
