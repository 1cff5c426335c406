"""Who is swept and who is spared, decided on journals, heartbeats and times."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import MachineLeaked
from build_orchestrator.journal import JOURNAL, Journal, append, machine_name, read
from build_orchestrator.machine.contract import Provider, silent
from build_orchestrator.machine.fake import FakeMachine, FakeProvider
from build_orchestrator.model import Identity
from build_orchestrator.sweep import STARTING_S, Swept, alive_machines, sweep

ONE, TWO = "1" * 32, "2" * 32


class Shows(FakeProvider):
    """A fake provider that shows what it is told to; its machines may be stuck."""

    def __init__(self, *shown: Identity, stuck: bool = False) -> None:
        super().__init__(notify=silent)
        self._shown = shown
        self._stuck = stuck

    def leftovers(self) -> list[Identity]:
        return list(self._shown)

    def adopt(self, identity: Identity) -> FakeMachine:
        if self._stuck:
            raise MachineLeaked("it is stuck")
        return super().adopt(identity)


class SharesSomething(Shows):
    """One whose machines share something."""

    def close(self, *, deadline: Deadline) -> tuple[str, ...]:
        raise NotImplementedError


class SeenLiving(Shows):
    """One that shows heartbeats, as AWS does."""

    def living(self, _: Identity) -> str:
        return "its orchestrator was alive 7 s ago"


def only(provider: Shows) -> Callable[[str], Provider]:
    return lambda _: provider


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of our own: where it keeps its runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "build-orchestrator" / "runs"


def started(project: Path, run_uuid: str) -> tuple[Journal, Identity]:
    """A run that has announced a machine."""
    folder = project / "runs" / f"20261121T014500Z-{run_uuid[:4]}"
    folder.mkdir(parents=True)
    journal = Journal(run_uuid, folder)
    name = machine_name(run_uuid, "a_fake", 1)
    identity = Identity(
        provider="fake",
        name=name,
        run_uuid=run_uuid,
        target="a_fake",
        attempt=1,
        folder=str(journal.folder_for(name)),
    )
    journal.intend(identity, limit_at=0.0, request={})
    return journal, identity


def swept(project: Path | None, *shown: Identity, dry_run: bool = False, named: str = "") -> Swept:
    """The one machine that a sweep finds."""
    (one,) = sweep(only(Shows(*shown)), ["fake"], project=project, dry_run=dry_run, only=named)
    return one


def test_an_intent_is_a_possible_machine(tmp_path: Path, runs: Path) -> None:
    """Nobody answered, nobody shows it, and still its folder is removed and its end noted."""
    journal, identity = started(tmp_path, ONE)
    journal.close()
    assert Path(identity.folder).exists()
    assert (swept(tmp_path).state, list(runs.iterdir())) == ("destroyed", [])
    assert read(next(tmp_path.glob(f"runs/*/{JOURNAL}")))[0].gone
    assert sweep(only(Shows()), ["fake"], project=tmp_path) == ()


@pytest.mark.parametrize("named", ["", "a_fake", ONE])
def test_a_held_heartbeat_spares(tmp_path: Path, named: str) -> None:
    """Also a machine that is named, and one that no journal of ours knows."""
    journal, identity = started(tmp_path, ONE)
    assert swept(tmp_path, identity, named=named).state == "spared"
    assert Path(identity.folder).exists()
    journal.close()


def test_a_heartbeat_in_another_state_folder_spares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine's folder says whose it is."""
    journal, identity = started(tmp_path, ONE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    assert swept(None, identity).state == "spared"
    journal.keep(identity.name, time.time() + 60)
    journal.close()
    assert swept(None, identity).reason.startswith("kept until")


@pytest.mark.parametrize("named", ["", "a_fake", ONE])
def test_who_lives_on_another_host_is_spared(tmp_path: Path, named: str) -> None:
    """Whether a checkout that both share tells of the machine, or only the provider; also where it
    is named. Of a run of this host the lock tells more."""
    journal, identity = started(tmp_path, ONE)
    journal.close()
    there = tmp_path / "state"
    there.rename(tmp_path / "there")
    (by_journal,) = sweep(only(SeenLiving()), ["fake"], project=tmp_path, only=named)
    assert (by_journal.state, by_journal.reason) == ("spared", SeenLiving().living(identity))
    shown = dataclasses.replace(identity, details={"living": "7 s ago"}, folder="")
    for project in (tmp_path, None):
        assert swept(project, shown, named=named if project else "").reason == "7 s ago"
    assert swept(None, shown, named=shown.name).reason == "7 s ago"
    (tmp_path / "there").rename(there)
    (by_lock,) = sweep(only(SeenLiving(shown)), ["fake"], project=tmp_path)
    assert by_lock.state == "destroyed"


@pytest.mark.parametrize(
    ("until", "named", "state", "reason"),
    [
        (4e9, "", "spared", "kept until 2096-10-02T07:06:40Z"),
        (4e9, "a_fake", "destroyed", "it was kept until 2096-10-02T07:06:40Z, and is named"),
        (1e9, "a_fake", "destroyed", "it was kept until 2001-09-09T01:46:40Z"),
        (1e9, "", "destroyed", "it was kept until 2001-09-09T01:46:40Z"),
    ],
)
def test_a_kept_machine_has_its_time(
    tmp_path: Path, until: float, named: str, state: str, reason: str
) -> None:
    """Until then only its name ends it; and what is said of it is true."""
    journal, identity = started(tmp_path, ONE)
    journal.keep(identity.name, until)
    journal.close()
    one = swept(tmp_path, named=named)
    assert (one.state, one.reason) == (state, reason)


def test_only_what_was_named_is_swept(tmp_path: Path) -> None:
    """A name, a target or a run's uuid: exactly that, no beginning of it."""
    for run_uuid in (ONE, TWO):
        started(tmp_path, run_uuid)[0].close()
    for named in ("a", ONE[:8], "a_fak"):
        assert sweep(only(Shows()), ["fake"], project=tmp_path, only=named) == ()
    assert [entry.identity.run_uuid for entry in alive_machines(tmp_path)] == [ONE, TWO]
    assert swept(tmp_path, named=TWO).name == machine_name(TWO, "a_fake", 1)
    assert [entry.identity.run_uuid for entry in alive_machines(tmp_path)] == [ONE]


def test_machines_alive_come_oldest_first(tmp_path: Path) -> None:
    """The last of a target is the one that `build ssh` opens; uuids have no order of their own."""
    for run_uuid in (TWO, ONE):
        started(tmp_path, run_uuid)[0].close()
    assert [entry.identity.run_uuid for entry in alive_machines(tmp_path)] == [TWO, ONE]


def test_either_journal_is_enough(tmp_path: Path, runs: Path) -> None:
    """A lost checkout or a lost state folder hides nothing."""
    started(tmp_path / "p", ONE)[0].close()
    started(tmp_path / "q", TWO)[0].close()
    shutil.rmtree(tmp_path / "p")
    shutil.rmtree(runs / TWO)
    found = sweep(only(Shows()), ["fake"], project=tmp_path / "q")
    assert sorted(each.name for each in found) == [machine_name(u, "a_fake", 1) for u in (ONE, TWO)]
    assert {each.state for each in found} == {"destroyed"}


@pytest.mark.parametrize("aware", ["state", "checkout"])
def test_what_one_journal_saw_the_other_is_told(tmp_path: Path, runs: Path, aware: str) -> None:
    """A crash between the two lines of an end leaves neither a ghost nor a folder."""
    journal, identity = started(tmp_path, ONE)
    journal.close()
    shutil.rmtree(identity.folder)
    (checkout,) = tmp_path.glob(f"runs/*/{JOURNAL}")
    path = runs / ONE / JOURNAL if aware == "state" else checkout
    append([path], {"kind": "gone", "at": 1.0, "name": identity.name})
    assert list(alive_machines(tmp_path)) == []
    assert sweep(only(Shows()), ["fake"], project=tmp_path) == ()
    assert read(checkout)[0].gone
    assert list(runs.iterdir()) == []


def test_a_machine_that_is_stuck_stays_known(tmp_path: Path, runs: Path) -> None:
    """What could not be destroyed is leaked, and found again by the next sweep."""
    started(tmp_path, ONE)[0].close()
    (stuck,) = sweep(only(Shows(stuck=True)), ["fake"], project=tmp_path)
    assert (stuck.state, stuck.reason) == ("leaked", "it is stuck")
    assert (runs / ONE).exists()
    assert swept(tmp_path).state == "destroyed"


def test_a_dry_run_changes_nothing(tmp_path: Path, runs: Path) -> None:
    """It tells what would be done."""
    journal, identity = started(tmp_path, ONE)
    journal.close()
    before = (runs / ONE / JOURNAL).read_bytes()
    assert swept(tmp_path, dry_run=True).state == "found"
    assert (runs / ONE / JOURNAL).read_bytes() == before
    assert Path(identity.folder).exists()


def test_a_run_that_ends_meanwhile_is_no_error(tmp_path: Path, runs: Path) -> None:
    """Its journal may go between being read and being written."""
    journal, identity = started(tmp_path, ONE)
    journal.close()

    class Vanishes(Shows):
        def adopt(self, identity: Identity) -> FakeMachine:
            shutil.rmtree(runs / ONE)
            return super().adopt(identity)

    (one,) = sweep(only(Vanishes()), ["fake"], project=None)
    assert (one.name, one.state) == (identity.name, "destroyed")


def test_what_a_killed_start_left_goes_after_a_while(runs: Path, tmp_path: Path) -> None:
    """A folder without a journal may belong to a run that starts now; an old one does not."""
    for name, age_s in (("old", 7200), ("new", 0)):
        (runs / name).mkdir(parents=True)
        (runs / name / "heartbeat").touch()
        os.utime(runs / name, (time.time() - age_s,) * 2)
    sweep(only(Shows()), ["fake"], project=tmp_path)
    assert [path.name for path in runs.iterdir()] == ["new"]


def test_a_dead_run_is_remembered_for_what_its_machines_shared(tmp_path: Path, runs: Path) -> None:
    """Its tags are young, as after a machine of another host; but we know that nobody lives."""
    journal, identity = started(tmp_path, ONE)
    journal.close()
    provider = SharesSomething()
    assert [each.state for each in sweep(only(provider), ["fake"], project=None)] == ["destroyed"]
    (folder,) = runs.iterdir()
    assert [path.name for path in folder.iterdir()] == ["heartbeat"]

    details = {"living": "its orchestrator was alive 5 s ago"}
    shared = [
        dataclasses.replace(
            identity, name=f"bo-{uuid}", run_uuid=uuid, target="", folder="", details=details
        )
        for uuid in (ONE, TWO)
    ]
    found = sweep(only(SharesSomething(*shared)), ["fake"], project=None, dry_run=True)
    assert [(each.name, each.state) for each in found] == [
        (f"bo-{ONE}", "found"),
        (f"bo-{TWO}", "spared"),
    ]
    long_ago = time.time() - STARTING_S - 1
    os.utime(folder, (long_ago, long_ago))
    assert sweep(only(provider), ["fake"], project=None) == ()
    assert list(runs.iterdir()) == []
