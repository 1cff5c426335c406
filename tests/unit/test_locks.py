"""Locks that the kernel frees, in a state folder that only its owner can look into."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import DeadlineExceeded, Interrupted
from build_orchestrator.locks import (
    cache_home,
    is_held,
    locked,
    private_folder,
    state_home,
    try_lock,
)

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from build_orchestrator.locks import try_lock
lock = try_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock by now."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


def test_the_kernel_frees_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    """A lock is held while its holder lives and free when it was killed, with nothing done."""
    path = tmp_path / "lock"
    child = holder(path)
    try:
        assert is_held(path)
        assert try_lock(path) is None
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert not is_held(path)
    lock = try_lock(path)
    assert lock is not None
    lock.release()


def test_a_lock_is_exclusive_within_a_process_too(tmp_path: Path) -> None:
    """Two threads of one orchestrator exclude each other."""
    first = try_lock(tmp_path / "lock")
    assert first is not None
    assert try_lock(tmp_path / "lock") is None
    first.release()
    first.release()
    assert not is_held(tmp_path / "lock")


def test_asking_leaves_nothing_behind(tmp_path: Path) -> None:
    """A lock file that does not exist is not held, and is not made by asking."""
    assert not is_held(tmp_path / "no" / "lock")
    assert list(tmp_path.iterdir()) == []


def test_a_child_process_does_not_inherit_a_lock(tmp_path: Path) -> None:
    """A machine that outlives its orchestrator must not keep its heartbeat alive."""
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        lock.release()
        assert not is_held(tmp_path / "lock")
    finally:
        child.kill()
        child.wait()


def test_the_file_stays_when_the_lock_goes(tmp_path: Path) -> None:
    """Removing it would let two processes hold "the same" lock on two files."""
    path = tmp_path / "deep" / "lock"
    lock = try_lock(path)
    assert lock is not None
    inode = path.stat().st_ino
    lock.release()
    assert path.stat().st_ino == inode
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def broken_block(path: Path) -> str:
    """Leave a locked block by an error; say whether the lock was held inside it."""
    try:
        with locked(path, deadline=Deadline("image", 50)):
            raise ZeroDivisionError("held" if is_held(path) else "free")
    except ZeroDivisionError as error:
        return str(error)


def test_a_wait_for_a_lock_ends(tmp_path: Path) -> None:
    """Waiting has a deadline, wakes up on cancel, and the lock is free after the block."""
    path = tmp_path / "lock"
    first = try_lock(path)
    assert first is not None
    with pytest.raises(DeadlineExceeded), locked(path, deadline=Deadline("image", 0)):
        pass
    cancel = Cancel()
    cancel.set(signal.SIGINT)
    with pytest.raises(Interrupted), locked(path, deadline=Deadline("image", 50), cancel=cancel):
        pass
    first.release()
    assert broken_block(path) == "held"
    assert not is_held(path)


def test_folders_are_private(tmp_path: Path) -> None:
    """Disks and keys of machines are nobody else's business, whatever the umask."""
    previous = os.umask(0)
    try:
        folder = private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(previous)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder(folder) == folder


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_only_absolute_folders_are_followed(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The XDG variables count when they are absolute, as their specification says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, value)
    assert state_home() == tmp_path / ".local/state/build-orchestrator"
    assert cache_home() == tmp_path / ".cache/build-orchestrator"
    monkeypatch.setenv("XDG_STATE_HOME", "/srv/state")
    monkeypatch.setenv("XDG_CACHE_HOME", "/srv/cache")
    assert state_home() == Path("/srv/state/build-orchestrator")
    assert cache_home() == Path("/srv/cache/build-orchestrator")
