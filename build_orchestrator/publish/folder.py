"""A folder as a destination.

A file is written beside its place under another name, synced, and then linked to its own name,
which fails where the name exists: of two publishers at once one wins, and a crash leaves at most a
hidden ``.part`` file, which a later publisher removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    DestinationUnreachable,
    HostNotReady,
    PublishConflict,
)
from build_orchestrator.locks import locked, state_home
from build_orchestrator.publish.contract import Item, changed, opened
from build_orchestrator.publish.layout import LATEST

CHUNK = 1 << 20
PART = ".part"
MODE = 0o644
ABANDONED_S = 24 * 3600
"""No publisher works this long, so an older ``.part`` file belongs to a dead one."""


class FolderDestination:
    """Artifacts below a folder of this host, or of a file system that it mounts."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root

    def address(self, key: str) -> str:
        return str(self._root / key)

    def check(self) -> None:
        nearest = next(
            place for place in (self._root, *self._root.parents) if os.path.lexists(place)
        )
        if not nearest.is_dir():
            why = f"{nearest} is no folder"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            why = f"{nearest} cannot be written"
        else:
            return
        raise HostNotReady(
            f"destination {self.name}: {why}",
            resolution="Make it writable, or give another one with --publish-to.",
        )

    def put(self, item: Item, *, deadline: Deadline, cancel: Cancel) -> None:
        place = self._root / item.key
        with self._errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                _remove_abandoned(place)
                with _written(item, place, deadline, cancel) as part, _taken():
                    _name_once(part, place, deadline)
                _sync(place.parent)
            self._compare(item, place)

    def read(self, key: str) -> bytes | None:
        place = self._root / key
        with self._errors(place):
            try:
                return place.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def point_latest(self, folder: str) -> None:
        link = self._root / LATEST
        with self._errors(link):
            scratch = Path(tempfile.mkdtemp(prefix=f".{LATEST}.", suffix=PART, dir=self._root))
            try:
                try:
                    (scratch / LATEST).symlink_to(folder)
                except OSError:  # This file system has no links.
                    link = self._root / f"{LATEST}.txt"
                    (scratch / LATEST).write_text(f"{folder}\n")
                (scratch / LATEST).replace(link)
            finally:
                (scratch / LATEST).unlink(missing_ok=True)
                scratch.rmdir()

    def _compare(self, item: Item, place: Path) -> None:
        """What lies there must be what we were to put there, whoever did it."""
        if place.is_file() and place.stat().st_size == item.size_bytes:
            with place.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == item.sha256:
                    return
        raise PublishConflict(
            f"{place} holds other bytes",
            resolution="Published bytes never change: give another VERSION, PRERELEASE or BUILD.",
        )

    @contextlib.contextmanager
    def _errors(self, place: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DestinationUnreachable(
                f"{place} cannot be published: {error.strerror or type(error).__name__}",
                resolution=f"Is there room, and may we write to {self._root}?",
            ) from error


@contextlib.contextmanager
def _written(item: Item, place: Path, deadline: Deadline, cancel: Cancel) -> Iterator[Path]:
    """The item's bytes on disk beside their place, under another name that goes away again."""
    descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", suffix=PART, dir=place.parent)
    part = Path(name)
    try:
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "wb") as file:
            for chunk in _chunks(item):
                cancel.check()
                deadline.check()
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fchmod(descriptor, MODE)
            os.fsync(descriptor)
        if digest.hexdigest() != item.sha256:
            raise changed(item)
        yield part
    finally:
        part.unlink(missing_ok=True)


def _chunks(item: Item) -> Iterator[bytes]:
    with opened(item.content) as file:
        while chunk := file.read(CHUNK):
            yield chunk


@contextlib.contextmanager
def _taken() -> Iterator[None]:
    """Somebody else may have been first; what he put there is compared next."""
    with contextlib.suppress(FileExistsError):
        yield


def _name_once(part: Path, place: Path, deadline: Deadline) -> None:
    """Give a whole file its final name, unless the name is taken (FileExistsError)."""
    try:
        os.link(part, place)
    except FileExistsError:
        raise
    except OSError:
        rename_once(part, place, deadline)


def rename_once(part: Path, place: Path, deadline: Deadline) -> None:
    """The same on file systems without hard links: publishers of this host take turns."""
    with locked(state_home() / "publish.lock", deadline=deadline, cancel=NEVER):
        if place.exists():
            raise FileExistsError(place)
        part.rename(place)


def _remove_abandoned(place: Path) -> None:
    """Remove what a killed publisher of the same name has left."""
    for part in place.parent.glob(f".*{PART}"):
        if part.name.startswith(f".{place.name}."):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > ABANDONED_S:
                    part.unlink()


def _sync(folder: Path) -> None:
    """Bring a new name to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
