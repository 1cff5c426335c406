"""Bring the outputs out of a machine and verify them.

An output counts only when it is whole: it is pulled into a ``.part`` folder, verified there, and
moved into place under its final name. What is declared ``.tar.gz`` is read to its very end, once:
the same pass computes the digests, checks gzip's own checksums and looks at every member.

Symbolic links in an archive may lead anywhere inside it. Out of it they may lead below ``/usr/``
only: a virtualenv's ``bin/python`` is a link to the system's interpreter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Self, cast

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, VerificationFailed
from build_orchestrator.machine.contract import Machine
from build_orchestrator.model import Artifact, Build, Output

PART = ".part"
PARTIAL = "partial"
"""Folder with the unverified outputs of a build that failed."""

ARCHIVE = ".tar.gz"
SYSTEM = ("usr",)
"""The only place outside of an archive that its symbolic links may lead to."""

UNPACKED_LIMIT_BYTES = 20 << 30
EXTENSION_LIMIT_BYTES = 1 << 20
"""The largest extended header of a member; tarfile holds it in memory."""
SHOWN = 10
"""Problems of one archive that are listed one by one."""

CHUNK = 1 << 18
GZIP = 16 + zlib.MAX_WBITS

Parts = tuple[str, ...]


def collect(
    machine: Machine,
    build: Build,
    folder: Path,
    *,
    source: PurePosixPath,
    deadline: Deadline,
    cancel: Cancel = NEVER,
) -> tuple[Artifact, ...]:
    """Pull a build's outputs into a folder of this host, verified, with their sidecars.

    Args:
        folder: of this build in the run folder; the artifacts appear in it one by one, each whole.
        source: ``$BUILD_OUTPUT`` in the machine.

    Raises:
        VerificationFailed: what was pulled is then in ``partial/``.
        EnvironmentFailure: the machine was lost, or this host cannot keep the files.
    """
    part = folder / PART
    try:
        _empty(part)
        try:
            machine.pull(source, part, deadline=deadline, cancel=cancel)
            verified = verify(part, build.outputs, deadline=deadline, cancel=cancel)
        except VerificationFailed as error:
            partial = folder / PARTIAL
            _empty(partial)
            part.rename(partial)
            error.resolution = f"{error.resolution} What it left is in {partial}.".lstrip()
            raise
        return tuple(_moved(artifact, folder) for artifact in verified)
    except OSError as error:
        raise EnvironmentFailure(
            f"{folder}: the outputs cannot be kept",
            details=str(error),
            resolution="Make room on this host, or name another place for runs.",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def collect_partial(
    machine: Machine,
    place: Path,
    *,
    source: PurePosixPath,
    deadline: Deadline,
    cancel: Cancel = NEVER,
) -> bool:
    """Keep whatever a failed build has left, unverified; say whether it was anything.

    Never raises: a failure is being handled already. What arrived before an error is kept.

    Args:
        place: ``partial/`` in the build's folder; emptied first, and gone when nothing is kept.
    """
    try:
        _empty(place)
        machine.pull(source, place, deadline=deadline, cancel=cancel)
    except Exception:  # noqa: BLE001 (whatever it is, the failure that brought us here is the news)
        pass
    try:
        if any(place.iterdir()):
            return True
        place.rmdir()
    except OSError:
        pass
    return False


def verify(
    folder: Path,
    outputs: tuple[Output, ...],
    *,
    deadline: Deadline | None = None,
    cancel: Cancel = NEVER,
) -> tuple[Artifact, ...]:
    """Check that a folder holds exactly the declared outputs, in order, and take their digests.

    Raises:
        VerificationFailed: naming everything that is wrong at once.
    """
    declared = {output.name for output in outputs}
    problems = [
        f"{entry.name!r}: is not declared{' (a folder)' if entry.is_dir() else ''}"
        for entry in sorted(folder.iterdir())
        if entry.name not in declared
    ]

    def check() -> None:
        cancel.check()
        if deadline is not None:
            deadline.check()

    artifacts = []
    for output in outputs:
        found = _verified(folder, output, check)
        if isinstance(found, Artifact):
            artifacts.append(found)
        else:
            problems += [f"{output.name}: {problem}" for problem in found]
    if problems:
        raise VerificationFailed(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} with the script's outputs",
            details="\n".join(problems),
            resolution="The script must leave exactly the recipe's outputs in $BUILD_OUTPUT.",
        )
    return tuple(artifacts)


def sidecars(artifact: Artifact) -> tuple[tuple[str, bytes], ...]:
    """Name and content of the files that lie beside an artifact: ``<hex> <name>``."""
    return tuple(
        (f"{artifact.name}.{kind}", f"{digest} {artifact.name}\n".encode())
        for kind, digest in (("sha256", artifact.sha256), ("md5", artifact.md5))
    )


def write_sidecars(artifact: Artifact) -> None:
    """Write ``<name>.sha256`` and ``<name>.md5`` beside an artifact."""
    for name, content in sidecars(artifact):
        (Path(artifact.path).parent / name).write_bytes(content)


def _empty(folder: Path) -> None:
    """Make a folder, or make it empty again."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _moved(artifact: Artifact, folder: Path) -> Artifact:
    """Move a verified file into place, and write its sidecars beside it."""
    place = folder / artifact.name
    with Path(artifact.path).open("rb") as file:
        os.fsync(file.fileno())
    Path(artifact.path).replace(place)
    moved = dataclasses.replace(artifact, path=str(place))
    write_sidecars(moved)
    return moved


# --- one output --------------------------------------------------------------------------------


def _verified(folder: Path, output: Output, check: Callable[[], None]) -> Artifact | list[str]:
    """The artifact, or what is wrong with it."""
    path = folder / output.name
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ["is missing"]
    if not stat.S_ISREG(status.st_mode):
        return ["is not a plain file"]
    if not status.st_size:
        return ["is empty"]
    with path.open("rb") as file:
        digested = _Digested(file, check)
        problems = _problems_inside(digested, output) if output.name.endswith(ARCHIVE) else []
        while digested.read():
            pass
    return problems or Artifact(
        name=output.name,
        path=str(path),
        size_bytes=digested.size_bytes,
        sha256=digested.sha256.hexdigest(),
        md5=digested.md5.hexdigest(),
    )


class _Digested:
    """A file whose bytes are counted and digested as they are read."""

    def __init__(self, file: IO[bytes], check: Callable[[], None]) -> None:
        self._file = file
        self._check = check
        self.size_bytes = 0
        self.sha256 = hashlib.sha256()
        # Not for security: the format is old, and readers of old artifacts expect it.
        self.md5 = hashlib.md5(usedforsecurity=False)

    def read(self) -> bytes:
        """The next bytes; none at the end."""
        self._check()
        chunk = self._file.read(CHUNK)
        self.size_bytes += len(chunk)
        self.sha256.update(chunk)
        self.md5.update(chunk)
        return chunk


# --- archives ----------------------------------------------------------------------------------


class _Unsound(Exception):
    """An archive that cannot be read to its end."""


class _Inflated:
    """What a gzip file holds, up to its very end: nothing missing, nothing behind it."""

    def __init__(self, source: _Digested) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(GZIP)
        self._waiting = b""
        self.position = 0
        self.zeros_from = 0
        """From here to ``position`` there are only zero bytes."""

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at the end."""
        while True:
            if self._inflate.eof:
                self._waiting = self._inflate.unused_data or self._source.read()
                if not self._waiting:
                    return b""
                self._inflate = zlib.decompressobj(GZIP)
            fresh = self._waiting or self._source.read()
            try:
                chunk = self._inflate.decompress(fresh, size)
            except zlib.error as error:
                raise _Unsound(f"is not gzip to its end: {error}") from error
            self._waiting = self._inflate.unconsumed_tail
            if chunk:
                return self._counted(chunk)
            if not fresh and not self._inflate.eof:
                raise _Unsound("is truncated")

    def _counted(self, chunk: bytes) -> bytes:
        if content := len(chunk.rstrip(b"\0")):
            self.zeros_from = self.position + content
        self.position += len(chunk)
        if self.position > UNPACKED_LIMIT_BYTES:
            raise _Unsound(f"unpacks to more than {UNPACKED_LIMIT_BYTES >> 30} GiB")
        return chunk


class _Member(tarfile.TarInfo):
    """A member with a whole header: tarfile takes a damaged one for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if buf and buf.count(0) < len(buf):
            try:
                member = super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                raise _Unsound(f"holds a damaged header: {error}") from error
            if member.type in EXTENSIONS and member.size > EXTENSION_LIMIT_BYTES:
                raise _Unsound("holds an extended header of more than 1 MiB")
            return member
        return super().frombuf(buf, encoding, errors)


EXTENSIONS = frozenset({
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
})  # fmt: skip


def _problems_inside(source: _Digested, output: Output) -> list[str]:
    """What is wrong with a ``.tar.gz``, and with its members."""
    inflated = _Inflated(source)
    members = _Members(_parts(output.members))
    try:
        with tarfile.open(
            fileobj=cast(IO[bytes], inflated),
            mode="r|",
            tarinfo=_Member,
            encoding="utf-8",
            errors="surrogateescape",
        ) as archive:
            while (member := archive.next()) is not None:
                members.take(member)
                archive.members = []  # type: ignore[attr-defined] # It would keep them all.
            end = archive.offset
        while inflated.read(CHUNK):
            pass
        if inflated.position - end < 2 * tarfile.BLOCKSIZE or inflated.zeros_from > end:
            raise _Unsound("does not end as a tar does: its writer was interrupted")
    except (_Unsound, tarfile.TarError) as error:
        return [*members.problems[:SHOWN], str(error)]
    except (ArithmeticError, LookupError, RecursionError, ValueError) as error:
        # What tarfile trips over when somebody means harm.
        return [f"cannot be read as a tar: {type(error).__name__}"]
    problems = members.all_problems()
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return problems[:SHOWN] + more


class _Members:
    """Looks at each member of an archive as it passes by, and at the tree that they make."""

    def __init__(self, root: Parts) -> None:
        self._root = root
        """The folder that everything must lie under; empty where anything goes."""
        self._types: dict[Parts, bytes] = {}
        self.problems: list[str] = []

    def take(self, member: tarfile.TarInfo) -> None:
        """Note what is wrong with one member by itself."""
        place = _parts(member.name)
        if problem := self._problem(member, place):
            self.problems.append(f"member {member.name!r} {problem}")
        self._types.setdefault(place, tarfile.REGTYPE if member.islnk() else member.type)

    def all_problems(self) -> list[str]:
        """Everything, including what only the whole tree shows."""
        for place in self._types:
            for depth in range(1, len(place)):
                if self._types.get(place[:depth], tarfile.DIRTYPE) != tarfile.DIRTYPE:
                    above = "/".join(place[:depth])
                    self.problems.append(f"member {'/'.join(place)!r} lies below {above!r}")
        if not any(place[:-1][: len(self._root)] == self._root for place in self._types if place):
            self.problems.append(f"holds nothing below {'/'.join(self._root) or '.'}/")
        return self.problems

    def _problem(self, member: tarfile.TarInfo, place: Parts) -> str:
        if member.name.startswith("/") or not member.name:
            return "is an absolute path"
        if ".." in place:
            return "has .. in its path"
        if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
            return "is neither file, folder nor link"
        if place in self._types:
            return "is there twice"
        parent = member.isdir() and place == self._root[: len(place)]
        if not parent and (place == self._root or place[: len(self._root)] != self._root):
            return f"lies outside {'/'.join(self._root)}/"
        if member.issym():
            return self._symlink_problem(member.linkname, place)
        if member.islnk() and not self._is_file(member.linkname):
            return f"is a hard link to {member.linkname!r}, which is no file before it"
        return ""

    def _is_file(self, path: str) -> bool:
        known = self._types.get(_parts(path)) in tarfile.REGULAR_TYPES
        return known and not path.startswith("/")

    def _symlink_problem(self, link: str, place: Parts) -> str:
        """``..`` is fine in front only: behind a name it would depend on where that one leads."""
        to = _parts(link)
        ups = next((n for n, part in enumerate(to) if part != ".."), len(to))
        if link.startswith("/"):
            inside = to[:1] == SYSTEM and ".." not in to
        else:
            inside = ups <= len(place) - 1 - len(self._root) and ".." not in to[ups:]
        return "" if inside else f"is a link to {link!r}, which leads out of the tree"


def _parts(path: str) -> Parts:
    return tuple(part for part in path.split("/") if part not in ("", "."))
