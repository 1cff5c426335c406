"""Archives whose bytes depend on names, contents and execute bits only."""

from __future__ import annotations

import contextlib
import os
import tarfile
import zipfile
from pathlib import Path
from time import gmtime
from typing import TYPE_CHECKING

from build_orchestrator.agent.compression import GzipWriter
from build_orchestrator.agent.errors import Code, PackagerError

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE_DATE_EPOCH = 1704067200
LEVEL = 4  # of gzip: twice as fast as 6 for a tar 4 % larger, and machines may be emulated
FILE, PROGRAM, LINK = 0o644, 0o755, 0o777
ZIP_EPOCH = 315532800  # a zip knows no earlier time than 1980


def source_date_epoch() -> int:
    """The one time that members have: the environment's, else a fixed one.

    Raises:
        PackagerError: SOURCE_DATE_EPOCH is no number of seconds.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text and not text.isdigit():
        raise PackagerError(
            Code.FAILED_TO_CREATE_TAR, f"SOURCE_DATE_EPOCH={text}: expected seconds since 1970"
        )
    return int(text or SOURCE_DATE_EPOCH)


def write_tar_gz(archive: Path, tree: Path, prefix: str, mtime: int) -> None:
    """Write everything below ``tree`` as ``prefix/...``, whole or not at all.

    Raises:
        PackagerError: the file could not be written, or an entry could not be read.
    """
    with whole(archive) as part, part.open("wb") as raw, GzipWriter(
        raw, LEVEL
    ) as zipped, tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, name in _entries(tree, prefix):
            _add(tar, path, name, mtime)


def _add(tar: tarfile.TarFile, path: Path, name: str, mtime: int) -> None:
    info = tarfile.TarInfo(name)
    info.mtime, info.mode = mtime, PROGRAM
    if path.is_symlink():
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(path), LINK
        tar.addfile(info)
    elif path.is_dir():
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    else:
        with path.open("rb") as content:
            status = os.fstat(content.fileno())
            info.size = status.st_size
            info.mode = PROGRAM if status.st_mode & 0o100 else FILE
            tar.addfile(info, content)


def write_zip(archive: Path, tree: Path, prefix: str, mtime: int) -> None:
    """Write everything below ``tree`` as ``prefix/...`` into a zip, whole or not at all.

    Raises:
        PackagerError: the file could not be written, or an entry could not be read.
    """
    with whole(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as zipped:
        for path, name in _entries(tree, prefix):
            if path.is_dir():
                continue
            info = zipfile.ZipInfo(name, gmtime(max(mtime, ZIP_EPOCH))[:6])
            mode = PROGRAM if path.stat().st_mode & 0o100 else FILE
            info.external_attr = (0o100000 | mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            zipped.writestr(info, path.read_bytes())


def _entries(tree: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    """Each entry below a tree with its member's name, in the order of names."""
    named = ((path, f"{prefix}/{path.relative_to(tree).as_posix()}") for path in tree.rglob("*"))
    for path, name in sorted(named, key=lambda pair: pair[1]):
        yield path, name.lstrip("/")


@contextlib.contextmanager
def whole(archive: Path) -> Iterator[Path]:
    """A file beside the archive that takes its name when all is written, and is removed else."""
    part = archive.with_name(f".{archive.name}.part")
    try:
        yield part
        part.replace(archive)
    except OSError as error:
        raise PackagerError(
            Code.FAILED_TO_CREATE_TAR,
            f"{archive}: could not be written",
            details=str(error),
            resolution="Is there room on the file system, and may you write there?",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
