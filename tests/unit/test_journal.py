"""The journal: what is needed to find machines stands on disk before they can exist."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from build_orchestrator.journal import (
    HEARTBEAT,
    JOURNAL,
    Journal,
    append,
    machine_name,
    read,
    records,
    run_state,
)
from build_orchestrator.locks import is_held
from build_orchestrator.model import Identity

UUID = "0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of our own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "build-orchestrator" / "runs" / UUID


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "runs" / "20261121T014500Z-0123"
    folder.mkdir(parents=True)
    return folder


def identity(target: str = "debian_bookworm_fake", **details: str) -> Identity:
    return Identity(
        provider="fake",
        name=machine_name(UUID, target, 1),
        run_uuid=UUID,
        target=target,
        attempt=1,
        folder="/somewhere",
        details=details,
    )


def intend(journal: Journal, machine: Identity) -> None:
    journal.intend(machine, limit_at=1e9, request={"size": {"cpus": 2}, "limit_s": 60.5})


def test_a_machines_life_is_read_back(run_folder: Path) -> None:
    """Intent, identity, kept and gone each change what is known, and nothing else does."""
    journal = Journal(UUID, run_folder)
    path = run_folder / JOURNAL
    assert read(path) == []
    intend(journal, identity())
    (entry,) = read(path)
    assert (entry.identity, entry.answered, entry.gone) == (identity(), False, False)
    assert (entry.limit_at, entry.request) == (1e9, {"size": {"cpus": 2}, "limit_s": 60.5})
    journal.identify(identity(pid="17"))
    (entry,) = read(path)
    assert (entry.identity, entry.answered) == (identity(pid="17"), True)
    assert entry.request["limit_s"] == 60.5, "the launch request stays"
    journal.keep(identity().name, 2e9)
    assert read(path)[0].kept_until == 2e9
    journal.bury(identity().name)
    assert read(path)[0].gone
    journal.close()


def test_two_places_hold_the_same(run_folder: Path, state: Path) -> None:
    """Either journal alone is enough, and the state folder is nobody else's business."""
    journal = Journal(UUID, run_folder)
    intend(journal, identity())
    assert (run_folder / JOURNAL).read_bytes() == (state / JOURNAL).read_bytes()
    assert run_state(UUID) == state
    for path in (state, journal.folder_for(identity().name)):
        assert path.stat().st_mode & 0o077 == 0
    assert (state / JOURNAL).stat().st_mode & 0o077 == 0
    journal.close()


def test_the_heartbeat_is_held_until_the_end(run_folder: Path, state: Path) -> None:
    """The kernel says whether the orchestrator lives; nothing needs to be renewed."""
    journal = Journal(UUID, run_folder)
    intend(journal, identity())
    assert is_held(state / HEARTBEAT)
    journal.close()
    assert not is_held(state / HEARTBEAT)


def test_the_state_of_a_run_stays_while_a_machine_may_live(run_folder: Path, state: Path) -> None:
    """The folder with disks and keys goes when every machine is gone, and not before."""
    journal = Journal(UUID, run_folder)
    intend(journal, identity())
    journal.close()
    assert read(state / JOURNAL)[0].identity == identity()
    journal = Journal(UUID, run_folder)
    journal.bury(identity().name)
    journal.close()
    assert not state.exists()
    assert read(run_folder / JOURNAL)[0].gone, "the run folder keeps the story"


@pytest.mark.parametrize("cut", [1, 2, 20, -1])
def test_a_torn_last_line_is_ignored(cut: int, run_folder: Path) -> None:
    """A crash in the middle of a line loses that line alone: its act cannot have begun."""
    journal = Journal(UUID, run_folder)
    intend(journal, identity("one"))
    whole = (run_folder / JOURNAL).read_bytes()
    intend(journal, identity("two"))
    both = (run_folder / JOURNAL).read_bytes()
    end = len(both) - 1 if cut < 0 else len(whole) + cut
    (run_folder / JOURNAL).write_bytes(both[:end])
    assert [entry.identity.target for entry in read(run_folder / JOURNAL)] == ["one"]
    journal.close()


def test_what_is_appended_after_a_torn_line_counts(run_folder: Path) -> None:
    """Sweep writes into the journal of a crashed run; its record must not drown in the rest."""
    journal = Journal(UUID, run_folder)
    intend(journal, identity())
    path = run_folder / JOURNAL
    with path.open("ab") as file:
        file.write(b'{"kind":"identity","na')
    append([path], {"kind": "gone", "at": 1.0, "name": identity().name})
    (entry,) = read(path)
    assert entry.gone
    journal.close()


def test_a_record_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    """On a full disk the act that a record announces must not begin: half a line is no line."""
    path = tmp_path / JOURNAL
    append([path], {"kind": "run", "at": 1.0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            append([path], {"kind": "intent", "at": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [record["kind"] for record in records(path)] == ["run"]
    append([path], {"kind": "gone", "at": 1.0})
    assert [record["kind"] for record in records(path)] == ["run", "gone"]


def test_a_missing_journal_has_no_records(tmp_path: Path) -> None:
    """A run folder that was deleted is nothing to trip over."""
    assert records(tmp_path / "no" / JOURNAL) == []


def test_what_is_no_file_has_no_records(tmp_path: Path) -> None:
    """A checkout may come from anywhere; nothing in it may keep machines from being swept."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert [records(each) for each in tmp_path.iterdir()] == [[], [], []]


def test_records_are_on_disk_before_append_returns(
    run_folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line is written and synced, file by file, and a new file's folder is synced, too."""
    steps: list[str] = []
    write, sync = os.write, os.fsync

    def name_of(descriptor: int) -> str:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        return f"{path.parent.name[:4]}/{path.name[:7]}" if path.name == JOURNAL else path.name[:4]

    def seen_write(descriptor: int, data: bytes) -> int:
        steps.append(f"write {name_of(descriptor)}")
        return write(descriptor, data)

    def seen_sync(descriptor: int) -> None:
        steps.append(f"sync {name_of(descriptor)}")
        sync(descriptor)

    monkeypatch.setattr(os, "write", seen_write)
    monkeypatch.setattr(os, "fsync", seen_sync)
    journal = Journal(UUID, run_folder)
    run, own = run_folder.name[:4], state.name[:4]
    written = [
        *(f"write {run}/journal", f"sync {run}/journal"),
        *(f"write {own}/journal", f"sync {own}/journal"),
    ]
    assert steps == [*written[:2], f"sync {run}", *written[2:], f"sync {own}"]
    steps.clear()
    intend(journal, identity())
    assert steps == written
    journal.close()


def test_many_threads_write_whole_lines(run_folder: Path) -> None:
    """Builds in parallel share the journal, and each line is one record."""
    journal = Journal(UUID, run_folder)

    def one(number: int) -> None:
        intend(journal, identity(f"target_{number}"))
        journal.bury(identity(f"target_{number}").name)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = read(run_folder / JOURNAL)
    assert sorted(entry.identity.target for entry in entries) == [f"target_{n}" for n in range(8)]
    assert all(entry.gone for entry in entries)
    journal.close()


def test_what_a_later_version_writes_is_passed_over(tmp_path: Path) -> None:
    """An unknown kind of record buries nobody, and one about an unknown machine means nothing."""
    journal = Journal(UUID, tmp_path)
    intend(journal, identity())
    append([tmp_path / JOURNAL], {"kind": "moved", "at": 1.0, "name": identity().name})
    append([tmp_path / JOURNAL], {"kind": "gone", "at": 1.0, "name": "bo-never-intended"})
    (entry,) = read(tmp_path / JOURNAL)
    assert not entry.gone
    journal.close()


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tail=st.binary(max_size=40).filter(lambda tail: b"\n" not in tail))
def test_no_garbage_at_the_end_hides_what_was_there(tail: bytes, tmp_path: Path) -> None:
    """Whatever a crash leaves behind the last whole line, the lines before it are read."""
    path = tmp_path / JOURNAL
    good = json.dumps({"kind": "run", "at": 1.0}).encode() + b"\n"
    path.write_bytes(good + tail)
    assert records(path) == [{"kind": "run", "at": 1.0}]
