"""The cache: an entry is there, whole, or not at all, and is made once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from build_orchestrator import cache
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import DeadlineExceeded, DiskFull, EnvironmentFailure
from build_orchestrator.locks import try_lock

ROOT = Path(__file__).parents[2]
FILLER = """
import sys, time
from pathlib import Path
from build_orchestrator import cache
from build_orchestrator.deadline import NEVER, Deadline
shelf = Path(sys.argv[1])
def fill(folder):
    (folder / "half").write_text("made by " + sys.argv[2])
    with (shelf / "fills").open("a") as fills:
        fills.write(sys.argv[2] + "\\n")
    print("filling", flush=True)
    sys.stdin.readline()
    (folder / "whole").write_text("yes")
print("waiting", flush=True)
place = cache.entry("images", "abc", fill, deadline=Deadline("image", 50), cancel=NEVER)
print((place / "whole").read_text(), flush=True)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of our own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "build-orchestrator"


def entry(fill: Callable[[Path], None], limit_s: float = 20) -> Path:
    return cache.entry("images", "abc", fill, deadline=Deadline("image", limit_s), cancel=Cancel())


def filler(folder: Path, name: str) -> subprocess.Popen[str]:
    """Another process that wants the same entry, and stops in the middle of making it."""
    child = subprocess.Popen(
        [sys.executable, "-c", FILLER, str(folder), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert said(child) == "waiting"
    return child


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def never(folder: Path) -> None:
    pytest.fail(f"{folder} was filled again")


def test_an_entry_is_made_once_and_found_again() -> None:
    """The second who asks gets what the first has made."""
    assert not cache.is_cached("images", "abc")
    place = entry(lambda folder: (folder / "disk").touch())
    assert cache.is_cached("images", "abc")
    assert entry(never) == place
    assert [path.name for path in place.iterdir()] == ["disk"]


def test_a_fill_that_fails_leaves_nothing(home: Path) -> None:
    """Neither an entry nor a scratch folder is left, and the next one may try."""

    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        entry(fail)
    assert [path.name for path in (home / "images").iterdir()] == ["abc.lock"]
    entry(lambda folder: (folder / "disk").touch())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (EnvironmentFailure("the disk could not be made", details="status 1"), "status 1"),
    ],
)
def test_a_fill_that_fails_for_want_of_room_says_so(
    error: Exception, words: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has filled the disk is there while it is measured, and goes then."""
    (home / "images").mkdir(parents=True)

    def fill(folder: Path) -> None:
        (folder / "half").touch()
        raise error

    def is_full(folder: Path) -> bool:
        return folder == home / "images" and bool(list(folder.glob("*/half")))

    monkeypatch.setattr(cache, "disk_is_full", is_full)
    with pytest.raises(DiskFull) as caught:
        entry(fill)
    assert caught.value.brief == f"this host's disk is full ({home / 'images'})"
    assert "MiB free\n" in caught.value.details
    assert words in caught.value.details
    assert "`build images prune`" in caught.value.resolution
    assert [path.name for path in (home / "images").iterdir()] == ["abc.lock"]


def test_what_fails_for_another_reason_does_not_say_so() -> None:
    for error in (OSError(errno.EACCES, "not ours"), EnvironmentFailure("no route")):
        with pytest.raises(type(error), match=r"not ours|no route"), cache.told_if_full(Path("/")):
            raise error


def test_two_processes_at_once_make_it_once(tmp_path: Path) -> None:
    """Who comes second waits for the first, and then finds the entry."""
    first = filler(tmp_path, "first")
    assert said(first) == "filling"
    second = filler(tmp_path, "second")
    assert first.communicate("\n")[0].strip() == "yes"
    assert second.communicate("\n")[0].strip() == "yes"
    assert (tmp_path / "fills").read_text() == "first\n"


def test_a_killed_fill_leaves_no_entry_and_the_next_one_cleans_up(
    tmp_path: Path, home: Path
) -> None:
    """SIGKILL in the middle leaves no half entry under its name, and no scratch for ever."""
    child = filler(tmp_path, "first")
    assert said(child) == "filling"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not cache.is_cached("images", "abc")
    assert len(list((home / "images").glob("*.part"))) == 1, "it was in the middle"
    place = entry(lambda folder: (folder / "disk").touch())
    assert sorted(path.name for path in (home / "images").iterdir()) == ["abc", "abc.lock"]
    assert [path.name for path in place.iterdir()] == ["disk"]


def test_what_somebody_is_making_is_not_swept(tmp_path: Path, home: Path) -> None:
    """Of any kind: a lock that is held says so; a maker that is gone holds none."""
    maker = filler(tmp_path, "first")
    assert said(maker) == "filling"
    (made,) = (home / "images").glob("*.part")
    left = home / "snapshots" / "abd.x.part"
    (left / "deep").mkdir(parents=True)
    assert cache.unfinished() == [left]
    cache.sweep_unfinished()
    assert (made.is_dir(), left.exists()) == (True, False)
    assert maker.communicate("\n")[0].strip() == "yes"


def test_who_fills_the_cache_cleans_up_after_the_killed(home: Path) -> None:
    """Their keys may never be asked for again."""
    left = [home / kind / "abd-1.x.part" for kind in ("images", "baked")]
    for each in left:
        each.mkdir(parents=True)
    entry(lambda folder: (folder / "disk").touch())
    assert not any(each.exists() for each in left)


def test_who_waits_too_long_is_told(home: Path) -> None:
    """A fill of another process that takes for ever does not hold us for ever."""
    lock = try_lock(home / "images" / "abc.lock")
    assert lock is not None
    with pytest.raises(DeadlineExceeded):
        entry(never, limit_s=0)
    lock.release()


def test_a_dropped_entry_is_made_again(home: Path) -> None:
    """What turned out to be unusable can be removed, unless somebody is making it."""
    place = entry(lambda folder: (folder / "disk").touch())
    lock = try_lock(home / "images" / "abc.lock")
    assert lock is not None
    cache.drop("images", "abc")
    assert place.is_dir()
    lock.release()
    cache.drop("images", "abc")
    assert not place.exists()
    cache.drop("images", "abc")
    entry(lambda folder: (folder / "again").touch())


def test_files_are_on_disk_before_the_name_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut must not leave an entry whose files are empty: sync first, then rename."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename

    def seen_sync(descriptor: int) -> None:
        steps.append("sync")
        sync(descriptor)

    def seen_rename(self: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    assert entry(lambda folder: (folder / "disk").touch()).is_dir()
    assert steps == ["sync", "sync", "rename"], "the file and its folder, then the name"


def test_who_writes_the_same_file_meanwhile_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "file", Path.replace
    code = "import sys, pathlib; from build_orchestrator import cache\n"
    code += "cache.write_whole(pathlib.Path(sys.argv[1]), 'theirs')"

    def late(aside: Path, target: Path) -> Path:
        subprocess.run([sys.executable, "-c", code, path], cwd=ROOT, check=True)
        assert path.read_text() == "theirs"
        return replace(aside, target)

    monkeypatch.setattr(Path, "replace", late)
    cache.write_whole(path, "ours")
    assert path.read_text() == "ours"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
