"""Write the members of a tar stream below a folder, and nowhere else.

Every step on the way to a member is opened relative to the one before and must be a folder, so
that neither a name nor a symbolic link, old or just written, leads out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from build_orchestrator.command import CHUNK
from build_orchestrator.errors import EnvironmentFailure, VerificationFailed

EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
EXTENSION_BYTES = 1 << 20
"""The largest long name or extended header that a stream may hold; tarfile keeps it in memory."""
LATEST_MTIME = 1 << 40
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[str, ...]
"""The path of a member below the folder, without ``.`` and ``..``."""


class _Member(tarfile.TarInfo):
    """A member whose headers must be whole: tarfile takes a damaged one for the stream's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if buf.count(0) == tarfile.BLOCKSIZE:  # The end, properly.
            return super().frombuf(buf, encoding, errors)
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            word = "truncated" if len(buf) < tarfile.BLOCKSIZE else "damaged"
            raise EnvironmentFailure(f"the tar stream is {word}: {error}") from error
        if member.type in EXTENSIONS and member.size > EXTENSION_BYTES:
            raise VerificationFailed(f"{member.name!r}: too long a header")
        return member


class Writer:
    """Writes members below a folder.

    It takes folders, plain files, hard links to files of the same stream, and symbolic links
    that lead nowhere but further inside. Modes lose setuid and other people's right to write, as
    with tarfile's ``data`` filter; owners are ignored. What exists is replaced, never followed.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._files: set[Parts] = set()
        self._times: dict[Parts, float] = {}

    def take(self, stream: IO[bytes]) -> None:
        """Write everything up to the stream's end."""
        with tarfile.open(
            fileobj=stream,
            mode="r|",
            tarinfo=_Member,
            encoding="utf-8",
            errors="surrogateescape",
            bufsize=CHUNK,
        ) as archive:
            while (member := archive.next()) is not None:
                self._take(archive, member)
                archive.members.clear()  # type: ignore[attr-defined]  # Or it keeps them all.
        for parts, mtime in reversed(self._times.items()):
            with self._folder(parts) as folder:
                os.utime(folder, (mtime, mtime))

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _inside(member.name)
        if member.isdir():
            self._make_folder(parts, member)
            return
        if not parts:
            raise VerificationFailed(f"{member.name!r}: a member without a name")
        with self._folder(parts[:-1]) as folder:
            if member.isreg() and not member.issparse():
                self._write(archive, member, folder, parts)
            elif member.issym():
                _check_link(member, depth=len(parts) - 1)
                self._vacate(folder, parts)
                os.symlink(member.linkname, parts[-1], dir_fd=folder)
            elif member.islnk():
                self._link(member, folder, parts)
            else:
                raise VerificationFailed(f"{member.name!r}: neither a plain file nor a folder")

    def _make_folder(self, parts: Parts, member: tarfile.TarInfo) -> None:
        if parts:
            with self._folder(parts) as folder:
                os.fchmod(folder, (member.mode & 0o755) | 0o700)
            self._times[parts] = _mtime(member)

    def _write(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, folder: int, parts: Parts
    ) -> None:
        self._vacate(folder, parts)
        source = archive.extractfile(member)
        assert source is not None, "it is a plain file"
        descriptor = os.open(parts[-1], NEW_FILE_FLAGS, 0o600, dir_fd=folder)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            while chunk := source.read(CHUNK):
                pending = memoryview(chunk)
                while pending:
                    pending = pending[file.write(pending) :]
            mode = (member.mode & 0o755) | 0o600
            os.fchmod(descriptor, mode if mode & 0o100 else mode & ~0o111)
            os.utime(descriptor, (_mtime(member), _mtime(member)))
        self._files.add(parts)

    def _link(self, member: tarfile.TarInfo, folder: int, parts: Parts) -> None:
        source = _inside(member.linkname)
        if source not in self._files or source == parts:
            raise VerificationFailed(
                f"{member.name!r}: a hard link to {member.linkname!r}, which did not come with it"
            )
        self._vacate(folder, parts)
        with self._folder(source[:-1]) as origin:
            os.link(
                source[-1],
                parts[-1],
                src_dir_fd=origin,
                dst_dir_fd=folder,
                follow_symlinks=False,
            )
        self._files.add(parts)

    def _vacate(self, folder: int, parts: Parts) -> None:
        """Remove what is in a member's place: it is replaced, never written through."""
        self._files.discard(parts)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(parts[-1], dir_fd=folder).st_mode):
                raise VerificationFailed(f"{'/'.join(parts)!r}: a folder is in its place")
            os.unlink(parts[-1], dir_fd=folder)

    @contextlib.contextmanager
    def _folder(self, parts: Parts) -> Iterator[int]:
        """A descriptor of a folder below ours, made where it is missing."""
        descriptor = os.open(self._target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in parts:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=descriptor)
                try:
                    inner = os.open(name, FOLDER_FLAGS, dir_fd=descriptor)
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    where = "/".join(parts)
                    raise VerificationFailed(f"{where!r}: {name!r} is not a folder") from error
                os.close(descriptor)
                descriptor = inner
            yield descriptor
        finally:
            os.close(descriptor)


def _inside(name: str) -> Parts:
    """The parts of a name that leads nowhere but inside."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise VerificationFailed(f"{name!r}: a name that leads out of the folder")
    return parts


def _check_link(member: tarfile.TarInfo, *, depth: int) -> None:
    """Refuse a symbolic link that could lead out of the folder, now or through another link.

    A target may climb first, no higher than the folder, and only descend from there. Links of
    this form can be chained at will; one that climbs after a name could climb out of another
    link's target.
    """
    link = member.linkname
    parts = [part for part in link.split("/") if part not in ("", ".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    if not link or link.startswith("/") or "\0" in link or climbs > depth or ".." in parts[climbs:]:
        raise VerificationFailed(
            f"{member.name!r}: a link to {link!r} could lead out of the folder"
        )


def _mtime(member: tarfile.TarInfo) -> float:
    return max(0, min(int(member.mtime), LATEST_MTIME))
