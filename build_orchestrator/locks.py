"""The host-wide state folder, and flock on files in it.

The kernel frees a lock when its holder dies, however it dies. So a lock that can be taken proves
that nobody lives, and no lock is ever "taken over".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import HostNotReady

POLL_S = 0.2


def state_home() -> Path:
    """``$XDG_STATE_HOME/build-orchestrator``: identities, overlays and per-build keys."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def cache_home() -> Path:
    """``$XDG_CACHE_HOME/build-orchestrator``: images and snapshots, which can be made again."""
    return _xdg("XDG_CACHE_HOME", ".cache")


def _xdg(variable: str, fallback: str) -> Path:
    # The specification says to ignore relative values.
    value = os.environ.get(variable, "")
    try:
        base = Path(value) if value.startswith("/") else Path.home() / fallback
    except RuntimeError as error:
        raise HostNotReady(
            f"this user has no home folder, and {variable} is not set",
            details=f"user id {os.geteuid()} is not known here, and HOME is not set",
            resolution="Set XDG_STATE_HOME and XDG_CACHE_HOME to folders that you may write.",
        ) from error
    return base / "build-orchestrator"


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner can look into."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


class Lock:
    """A flock, held from acquisition until ``release`` or the death of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def try_lock(path: Path, *, shared: bool = False) -> Lock | None:
    """Take a lock at once, or return None because somebody holds it.

    Many may hold a shared one, and nobody beside them one that is not. The file is made where it
    is missing, and never removed: removing a locked file would let two processes hold "the same"
    lock on two inodes.
    """
    private_folder(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor)


def is_held(path: Path) -> bool:
    """Whether a living process holds this lock. A file that does not exist is not held."""
    if not path.exists():
        return False
    lock = try_lock(path)
    if lock is None:
        return True
    lock.release()
    return False


@contextlib.contextmanager
def locked(path: Path, *, deadline: Deadline, cancel: Cancel = NEVER) -> Iterator[None]:
    """Hold a lock during a block.

    Raises:
        DeadlineExceeded, Interrupted: while waiting for it.
    """
    lock = wait_for(path, deadline=deadline, cancel=cancel)
    try:
        yield
    finally:
        lock.release()


def wait_for(path: Path, *, deadline: Deadline, cancel: Cancel, shared: bool = False) -> Lock:
    """Take a lock as soon as it can be had.

    Raises:
        DeadlineExceeded, Interrupted: while waiting for it.
    """
    while (lock := try_lock(path, shared=shared)) is None:
        deadline.check()
        cancel.sleep(POLL_S)
    return lock
