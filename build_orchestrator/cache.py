"""A cache of folders outside the checkout: filled once, complete or absent, never changed.

An entry is made in a temporary folder beside its place and renamed into it when it is whole, under
a lock, so that two runs that need the same entry make it once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import DiskFull, EnvironmentFailure
from build_orchestrator.locks import cache_home, is_held, locked, private_folder, try_lock

PART = ".part"
FULL_BYTES = 4 << 20
"""A file system with less than this left is full."""


def entry(
    kind: str,
    key: str,
    fill: Callable[[Path], None],
    *,
    deadline: Deadline,
    cancel: Cancel,
) -> Path:
    """Return the folder ``<cache>/<kind>/<key>``, made by ``fill(folder)`` where it is missing.

    Args:
        kind: such as ``images`` or ``snapshots``.
        key: hex digits over everything that decides what the entry holds.
        fill: writes the entry into an empty folder; what it leaves after an error is removed.

    Raises:
        DiskFull: it failed where the cache's file system has no room left.
    """
    shelf = private_folder(cache_home() / kind)
    place = shelf / key
    if place.is_dir():
        return place
    sweep_unfinished()
    with locked(shelf / f"{key}.lock", deadline=deadline, cancel=cancel):
        if place.is_dir():
            return place
        for leftover in shelf.glob(f"{key}.*{PART}"):  # Of one who was killed as we waited for it.
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=PART, dir=shelf))
        try:
            with told_if_full(shelf):
                fill(scratch)
                _sync(scratch)
                scratch.rename(place)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    return place


def place_of(kind: str, key: str) -> Path | None:
    """An entry's folder, where it is there already."""
    place = cache_home() / kind / key
    return place if place.is_dir() else None


def is_cached(kind: str, key: str) -> bool:
    """Whether an entry is there already."""
    return place_of(kind, key) is not None


def drop(kind: str, key: str) -> None:
    """Remove an entry that turned out to be unusable. Nobody may be using it."""
    shelf = cache_home() / kind
    lock = try_lock(shelf / f"{key}.lock")
    if lock is None:
        return
    try:
        shutil.rmtree(shelf / key, ignore_errors=True)
    finally:
        lock.release()


def unfinished() -> list[Path]:
    """What killed fills have left, of every kind: whoever fills an entry holds its key's lock."""
    return [each for each in sorted(cache_home().glob(f"*/*{PART}")) if not is_held(_lock_of(each))]


def sweep_unfinished() -> None:
    """Remove that."""
    for leftover in unfinished():
        lock = try_lock(_lock_of(leftover))
        if lock is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            lock.release()


def _lock_of(scratch: Path) -> Path:
    return scratch.with_name(f"{scratch.name.partition('.')[0]}.lock")


def write_whole(path: Path, text: str) -> None:
    """Write a file that is whole or absent, whenever somebody looks, and whoever else writes it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def disk_is_full(folder: Path) -> bool:
    """Whether the file system of a folder has no room left for anything sensible."""
    return shutil.disk_usage(folder).free < FULL_BYTES


def see_room(folder: Path) -> None:
    """Raise DiskFull where the file system of a folder has no room left."""
    if disk_is_full(folder):
        raise no_room(folder)


@contextlib.contextmanager
def told_if_full(folder: Path) -> Iterator[None]:
    """Let what fails in the block say so where the file system of a folder has no room left.

    It is measured, since a tool has words of its own for it: before anything is removed.
    """
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or disk_is_full(folder):
            raise no_room(folder, str(error)) from error
        raise
    except EnvironmentFailure as error:
        if disk_is_full(folder):
            raise no_room(folder, f"{error.brief}\n{error.details}".rstrip()) from error
        raise


def no_room(folder: Path, words: str = "") -> DiskFull:
    """The error for a full file system, with the words of what has met it."""
    room = os.statvfs(folder)
    inodes = " and no inodes" if room.f_files and not room.f_favail else ""
    free = f"{room.f_bavail * room.f_frsize >> 20} MiB{inodes} free"
    return DiskFull(
        f"this host's disk is full ({folder})",
        details=f"{free}\n{words}".rstrip(),
        resolution="Make room, for instance with `build images prune`, and try again.",
    )


def _sync(folder: Path) -> None:
    """Bring an entry's files to disk before its name appears: a power cut must not halve it."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path.is_dir():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
