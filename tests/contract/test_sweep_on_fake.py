"""What was left behind or kept, and what ``build sweep`` makes of it: neither less nor more."""

from __future__ import annotations

import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from build_orchestrator.journal import append
from build_orchestrator.machine.qemu.launch import name_in
from tests.conftest import require
from tests.contract.projects import CLI, TARGET, WAITS, Project, project, until_event

__all__ = ["project"]

alone = pytest.mark.alone
RUN_S = 0.6
"""About as long as a run takes until its script; kills come at any moment of it."""


def left_behind(project: Project) -> str:
    """Kill an orchestrator while its script runs; return the machine's name."""
    project.write(script=WAITS)
    with project.started("up", TARGET, "--events", "-") as child:
        until_event(child, "output_line", "waiting")
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert project.alive(), "its machine is alive"
    return project.entries()[-1].identity.name


def swept(project: Project, *arguments: str, cwd: Path | None = None) -> list[dict[str, Any]]:
    """What ``build sweep`` says of this project's machines. Others may have theirs on this host."""
    done = project.build("sweep", "--json", *arguments, cwd=cwd)
    assert done.status == 0, done.words
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return [row for row in rows if any(uuid in row["name"] for uuid in known(project))]


def known(project: Project) -> list[str]:
    return [*project.uuids(), *(path.name for path in project.state.glob("runs/*"))]


def test_killed_at_any_moment_and_swept(
    project: Project, record_property: Callable[[str, object], None]
) -> None:
    """Six orchestrators die of SIGKILL at random moments; one sweep leaves nothing."""
    seed = random.randrange(1 << 32)
    record_property("seed", seed)
    moments = random.Random(seed)
    project.write(options={"boot_s": "0.1"}, script="echo waiting; sleep 60")
    for _ in range(2):
        with (
            project.started("up", TARGET) as one,
            project.started("up", TARGET) as two,
            project.started("up", TARGET, "--events", "-") as three,
        ):
            for child in (one, two):
                time.sleep(moments.uniform(0.1, RUN_S))
                child.send_signal(signal.SIGKILL)
            until_event(three, "output_line", "waiting")
            three.send_signal(signal.SIGKILL)
    assert project.build("sweep").status == 0
    project.assert_nothing_left()


@alone
@pytest.mark.parametrize(
    "target",
    [
        {"options": {"refuse_to_die": "true"}},
        {"options": {"hang_at": "destroy"}, "deadlines": {"destroy_s": 0.2}},
    ],
    ids=["refuses", "hangs"],
)
def test_a_leaked_machine_is_named_and_swept(project: Project, target: dict[str, Any]) -> None:
    """A machine that would not die is exit 5 with its name; sweep destroys it."""
    done = project.write(**target).up()
    assert done.status == 5
    row = project.row()
    assert (row["outcome"], row["machine"]) == ("built", "leaked")
    assert row["published"][0]["state"] == "yes", "a leak does not stop publishing"
    assert row["machine_name"] in done.words
    assert "build sweep" in done.words
    assert project.alive()
    assert [each["state"] for each in swept(project)] == ["destroyed"]
    project.assert_nothing_left()


@alone
def test_a_machine_that_cannot_be_destroyed_is_leaked(project: Project) -> None:
    """An error of the teardown does not hide the build's own, and exit 5 comes first."""
    done = project.write(options={"fail_at": "destroy"}, script="exit 7").up()
    assert done.status == 5
    assert (project.row()["outcome"], project.row()["machine"]) == ("failed", "leaked")
    assert "status 7" in project.row()["failure"]["brief"]
    assert project.build("sweep").status == 0
    project.assert_nothing_left()


@alone
@pytest.mark.parametrize(
    ("keep", "script", "kept"),
    [
        ("always", "exit 7", True),
        ("always", None, True),
        ("on-failure", "exit 7", True),
        ("on-failure", None, False),
        ("never", "exit 7", False),
    ],
)
def test_machines_are_kept_when_it_was_asked_for(
    project: Project, keep: str, script: str | None, kept: bool
) -> None:
    """A kept machine changes neither outcome nor exit code nor publishing."""
    if script:
        project.write(script=script)
    done = project.up("--keep", keep, "--keep-for", "2h")
    row = project.row()
    assert done.status == (1 if script else 0), done.words
    assert row["machine"] == ("kept" if kept else "destroyed")
    assert [each["state"] for each in row["published"]] == ([] if script else ["yes"])
    assert bool(project.alive()) == kept
    if not kept:
        project.assert_nothing_left()
        return
    until = datetime.datetime.fromisoformat(row["kept_until"]).timestamp()
    assert 7100 < until - time.time() <= 7200
    (entry,) = project.entries()
    assert abs(entry.kept_until - until) < 2
    assert entry.limit_at > entry.kept_until


@alone
def test_a_kept_machine_lives_until_its_time_or_its_name(project: Project) -> None:
    """Shown by status, spared by every sweep and by the next run, destroyed when it is named."""
    project.up("--keep", "always")
    name = project.row()["machine_name"]
    status = json.loads(project.build("status", "--json").stdout)
    assert [machine["name"] for machine in status["machines"]] == [name]
    assert status["machines"][0]["kept_until"]
    for arguments in (["--dry-run"], []):
        rows = swept(project, *arguments)
        assert [(row["name"], row["state"]) for row in rows] == [(name, "spared")]
    assert project.up().status == 0, "the next run sweeps, too"
    assert project.alive()
    elsewhere = {"XDG_STATE_HOME": str(project.home / "another")}
    assert project.build("sweep", cwd=project.home, **elsewhere).status == 0
    assert project.alive(), "a sweep with another state folder spares it, too"
    assert [row["state"] for row in swept(project, "--dry-run", TARGET)] == ["found"]
    assert project.alive()
    assert [row["state"] for row in swept(project, TARGET)] == ["destroyed"]
    project.assert_nothing_left()


@alone
def test_the_name_of_a_target_means_this_projects(project: Project, tmp_path: Path) -> None:
    """Every checkout has a target of that name; a machine's own name means it from anywhere."""
    assert project.up("--keep", "always").status == 0
    [machine] = json.loads(project.build("status", "--json").stdout)["machines"]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(project.folder, elsewhere, ignore=shutil.ignore_patterns("runs"))
    for place in (elsewhere, tmp_path):
        assert "spared" in project.build("sweep", TARGET, cwd=place).stdout
    assert project.alive()
    assert "destroyed" in project.build("sweep", machine["name"], cwd=elsewhere).stdout
    assert project.alive() == []


@alone
def test_a_kept_machine_is_swept_after_its_time(project: Project) -> None:
    """What was kept until a time that has passed is nobody's any more."""
    project.up("--keep", "always")
    (entry,) = project.entries()
    record = {"kind": "kept", "at": 0.0, "name": entry.identity.name, "until": time.time() - 1}
    append([project.run / "journal.jsonl", project.folders()[0] / "journal.jsonl"], record)
    assert [row["state"] for row in swept(project)] == ["destroyed"]
    project.assert_nothing_left()


@alone
def test_the_next_run_sweeps_what_a_killed_one_left(project: Project) -> None:
    """Nobody needs to remember ``build sweep``: ``build up`` does it before it starts."""
    name = left_behind(project)
    done = project.write().up()
    assert done.status == 0, done.words
    assert f"{name} was left behind" in done.stderr
    project.assert_nothing_left()


@alone
def test_a_dry_run_destroys_nothing(project: Project) -> None:
    """It lists what a sweep would destroy."""
    name = left_behind(project)
    assert [(row["name"], row["state"]) for row in swept(project, "--dry-run")] == [(name, "found")]
    assert project.alive()
    assert [row["state"] for row in swept(project)] == ["destroyed"]
    project.assert_nothing_left()


@alone
def test_a_deleted_checkout_hides_nothing(project: Project) -> None:
    """The host-wide state folder is enough, from any folder."""
    name = left_behind(project)
    shutil.rmtree(project.folder)
    done = project.build("sweep", cwd=project.home)
    assert done.status == 0, done.words
    assert f"destroyed  {name}" in done.stdout
    project.assert_nothing_left()


@alone
@pytest.mark.parametrize("inside", [True, False], ids=["run-folder", "name-alone"])
def test_a_deleted_state_folder_hides_nothing(project: Project, inside: bool) -> None:
    """The run folder's journal is enough, and so is the name that the machine carries."""
    name = left_behind(project)
    shutil.rmtree(project.state)
    done = project.build("sweep", cwd=project.folder if inside else project.home)
    assert done.status == 0, done.words
    assert f"destroyed  {name}" in done.stdout
    assert project.alive() == []
    assert project.folders() == []


@alone
def test_the_name_alone_is_enough(project: Project) -> None:
    """Both journals are lost, the disk is not: it is removed with its machine."""
    left_behind(project)
    for path in (project.run / "journal.jsonl", project.folders()[0] / "journal.jsonl"):
        path.unlink()
    (machine,) = project.folders()[0].glob("machines/*")
    assert [row["state"] for row in swept(project, cwd=project.home)] == ["destroyed"]
    assert project.alive() == []
    assert not machine.exists()


@alone
def test_a_machine_whose_orchestrator_lives_is_never_swept(project: Project) -> None:
    """Neither by a plain sweep, nor by its name, nor from another state folder, nor by a run."""
    project.write(script=WAITS)
    with project.started("up", TARGET, "--events", "-") as child:
        until_event(child, "output_line", "waiting")
        other = {"XDG_STATE_HOME": str(project.home / "another")}
        assert [row["state"] for row in swept(project)] == ["spared"]
        assert [row["state"] for row in swept(project, TARGET)] == ["spared"]
        assert project.build("sweep", cwd=project.home, **other).status == 0
        assert child.poll() is None
        assert project.alive()
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 143
    project.assert_nothing_left()


@alone
def test_a_process_with_a_recycled_pid_is_spared(project: Project) -> None:
    """The pid in a journal means nothing; what the process carries does."""
    name = left_behind(project)
    for pid in project.alive():
        os.kill(pid, signal.SIGKILL)
    stranger = os.getpid()
    paths = [project.run / "journal.jsonl", project.folders()[0] / "journal.jsonl"]
    lines = [json.loads(line) for line in paths[0].read_text().splitlines()]
    (identity,) = [line for line in lines if line["kind"] == "identity"]
    append(paths, {**identity, "details": {"pid": str(stranger)}})
    assert [(row["name"], row["state"]) for row in swept(project)] == [(name, "destroyed")]
    assert os.getpid() == stranger, "we are still here"
    project.assert_nothing_left()


def test_a_stranger_with_our_name_in_his_own_folder_is_not_touched(
    project: Project, tmp_path: Path
) -> None:
    """Somebody runs the line of a machine.sh by hand: it is his, and so is his folder."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("mine\n")
    name = f"bo-{'0123456789abcdef' * 2}-debian_bookworm_qemu-1"
    program = victim / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    argv = ["timeout", "60", str(program), "-name", name]
    for folder in (victim, Path("/")):
        with subprocess.Popen(argv, cwd=folder) as stranger:
            assert name_in(tuple(argv)) == name
            done = project.build("sweep")
            assert done.status == 0, done.words
            assert stranger.poll() is None
            stranger.terminate()
    assert (victim / "thesis.txt").read_text() == "mine\n"


def test_a_stranger_with_the_name_of_a_fake_machine_is_not_touched(project: Project) -> None:
    """Whoever carries the name and works elsewhere is no machine."""
    name = f"bo-{'0123456789abcdef' * 2}-debian_bookworm_fake-1"
    environ = {**os.environ, "MACHINE_NAME": name}
    with subprocess.Popen(["sleep", "60"], cwd="/", env=environ) as stranger:
        done = project.build("sweep")
        assert done.status == 0, done.words
        assert stranger.poll() is None
        stranger.terminate()


@alone
def test_an_orchestrator_in_a_container_is_alive_too(project: Project) -> None:
    """It sees other file systems: its heartbeat lies where only its machine's process leads us."""
    require("unshare", that=os.geteuid() == 0, because="only root makes a mount namespace")
    project.write(script=WAITS)
    state = project.home / "state"
    state.mkdir()
    inside = 'mount -t tmpfs tmpfs "$XDG_STATE_HOME" && exec "$@"'
    child = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", inside, "sh", *CLI, "up", TARGET, "--events", "-"],
        cwd=project.folder,
        env={**project.environ, "XDG_STATE_HOME": str(state)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until_event(child, "output_line", "waiting")
        for sweeper in (project, Project(project.home / "another")):
            rows = json.loads(sweeper.build("sweep", "--json").stdout)
            (row,) = [row for row in rows if project.uuids()[0] in row["name"]]
            assert (row["state"], row["reason"]) == ("spared", "its orchestrator is alive")
        assert list(state.iterdir()) == [], "this test would prove nothing"
    finally:
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 130
        child.communicate()
    assert swept(project) == []


@alone
@pytest.mark.parametrize("command", ["sweep", "up"])
def test_a_journal_that_tells_of_something_else(project: Project, command: str) -> None:
    """A checkout may come from anywhere, its runs too: only what is called like a machine goes."""
    precious = project.home / "precious"
    precious.mkdir()
    identity = {"provider": "fake", "name": precious.name, "folder": str(precious), "target": "a"}
    record = {"kind": "intent", "at": 1.0, **identity, "run_uuid": "0" * 32, "attempt": 1}
    journal = project.folder / "runs/20261121T014500Z-3f9c/journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text(json.dumps({**record, "details": {}, "limit_at": 1.0, "request": {}}) + "\n")
    done = project.build(command, *([TARGET] if command == "up" else []))
    assert done.status == 0, done.words
    assert precious.is_dir()


@alone
@pytest.mark.parametrize("command", ["sweep", "up", "status"])
def test_a_folder_with_the_name_of_a_journal(project: Project, command: str) -> None:
    """It tells of no machine, and hides none of the others."""
    name = left_behind(project)
    project.write()
    (project.folder / "runs/x-y/journal.jsonl").mkdir(parents=True)
    done = project.build(command, *([TARGET] if command == "up" else []))
    assert done.status == 0, done.words
    assert name in done.words


def test_a_run_is_swept_by_the_id_that_people_see(project: Project) -> None:
    """The id, or its beginning; a name that means nothing is said to."""
    assert project.up("--keep", "always").status == 0
    unknown = project.build("sweep", "nosuch")
    assert (unknown.status, unknown.stdout) == (0, "nothing called 'nosuch' was left behind\n")
    done = project.build("sweep", project.run.name)
    assert done.stdout.startswith("destroyed"), done.words
    project.assert_nothing_left()
