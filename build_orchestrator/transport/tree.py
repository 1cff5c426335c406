"""Folders as tar streams: packed without a temporary file, unpacked while they arrive.

What comes out of a machine is not trusted: an ``Unpacker`` never writes outside its folder, and
never through a symbolic link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from build_orchestrator.command import CHUNK, Consumer
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.transport.writer import Writer


class Digest:
    """The SHA-256 of everything that passed through, on its way in or out."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks."""
        for chunk in chunks:
            self._hash.update(chunk)
            yield chunk

    def into(self, consumer: Consumer) -> Consumer:
        """A consumer that hands each chunk on."""

        def consume(chunk: bytes) -> None:
            self._hash.update(chunk)
            consumer(chunk)

        return consume

    @property
    def sha256(self) -> str:
        """64 hex digits."""
        return self._hash.hexdigest()


# --- packing ----------------------------------------------------------------------------------


def pack(folder: Path) -> Iterator[bytes]:
    """The content of a folder as an uncompressed tar stream, in chunks of about 64 KiB.

    The same content gives the same bytes: members are sorted, owned by 0:0 without names, with
    their modes and whole seconds of their times. Symbolic links stay what they are.

    Raises:
        EnvironmentFailure: a socket, device or fifo; a file that cannot be read, or that changes
            its size meanwhile.
    """
    size = 0
    pending = bytearray()
    for piece in _members(folder, ""):
        pending += piece
        if len(pending) >= CHUNK:
            size += len(pending)
            yield bytes(pending)
            pending.clear()
    pending += bytes(2 * tarfile.BLOCKSIZE)
    pending += bytes(-(size + len(pending)) % tarfile.RECORDSIZE)
    yield bytes(pending)


def _members(folder: Path, prefix: str) -> Iterator[bytes]:
    with _reading(folder), os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        path, name = folder / entry.name, prefix + entry.name
        with _reading(path):
            status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            with _reading(path):
                link = str(path.readlink())
            yield _header(name, status, tarfile.SYMTYPE, link=link)
        elif stat.S_ISDIR(status.st_mode):
            yield _header(name, status, tarfile.DIRTYPE)
            yield from _members(path, f"{name}/")
        elif stat.S_ISREG(status.st_mode):
            yield from _file(path, name)
        else:
            raise EnvironmentFailure(
                f"{path}: a socket, device or fifo cannot be copied",
                resolution="Take it out of the folder, or name the files that are meant.",
            )


def _file(path: Path, name: str) -> Iterator[bytes]:
    with _reading(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        yield _header(name, status, tarfile.REGTYPE, size=status.st_size)
        left = status.st_size
        while left:
            with _reading(path):
                chunk = file.read(min(left, CHUNK))
            if not chunk:
                break
            left -= len(chunk)
            yield chunk
        if left or os.fstat(descriptor).st_size != status.st_size:
            raise EnvironmentFailure(f"{path}: changed its size while it was read")
    yield bytes(-status.st_size % tarfile.BLOCKSIZE)


def _header(
    name: str, status: os.stat_result, kind: bytes, *, size: int = 0, link: str = ""
) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.mode = stat.S_IMODE(status.st_mode)
    member.mtime = int(status.st_mtime)
    member.size = size
    member.linkname = link
    # The GNU format is what every tar reads, and its names are plain bytes.
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(f"{path}: cannot be read", details=str(error.strerror)) from error


# --- unpacking --------------------------------------------------------------------------------


class Unpacker:
    """A consumer that writes a tar stream into a folder while it arrives.

    It takes folders, plain files, hard links to files of the same stream, and symbolic links
    that lead nowhere but further inside. Modes lose setuid and other people's right to write, as
    with tarfile's ``data`` filter; owners are ignored. What exists is replaced, never followed.

    Leaving its block without ``close`` gives the stream up. What was written by then stays.

    Raises (from a call, or from ``close``):
        VerificationFailed: the stream holds something that may not leave a machine.
        EnvironmentFailure: it is truncated or damaged, or this host cannot write.
    """

    def __init__(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        self._error: BaseException | None = None
        read, self._write = os.pipe()
        # tarfile wants to read, and we are written to: it reads in a thread of its own.
        self._thread = threading.Thread(target=self._work, args=(read, target), daemon=True)
        self._thread.start()

    def __call__(self, chunk: bytes) -> None:
        pending = memoryview(chunk)
        try:
            while pending:
                pending = pending[os.write(self._write, pending) :]
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        """Finish, and raise what went wrong."""
        self._end()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._write >= 0:
            os.close(self._write)
            self._write = -1
        self._thread.join()

    def _work(self, read: int, target: Path) -> None:
        try:
            with os.fdopen(read, "rb", buffering=0) as stream:
                Writer(target).take(stream)
                while stream.read(CHUNK):  # The padding after the end.
                    pass
        except tarfile.TarError as error:
            self._error = EnvironmentFailure(f"the tar stream is damaged: {error}")
        except OSError as error:
            name = f"{error.filename!r}: " if error.filename else ""
            self._error = EnvironmentFailure(
                f"{target}: cannot be written", details=f"{name}{error.strerror}"
            )
        except BaseException as error:  # noqa: BLE001 (raised again where the caller waits)
            self._error = error
