"""Signals: all machines are gone, and the exit code says which signal it was."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.contract.projects import CLI, SCRIPT, TARGET, WAITS, Project, project, until_event

__all__ = ["project"]

HANGS: dict[str, dict[str, Any]] = {
    "boot": {"options": {"boot_s": "60"}},
    "provision": {},
    "collect": {"options": {"hang_at": "collect"}},
}
ENDS = [
    pytest.param([signal.SIGINT], 130, id="SIGINT"),
    pytest.param([signal.SIGINT, signal.SIGINT], 130, id="SIGINT-twice"),
    pytest.param([signal.SIGTERM], 143, id="SIGTERM"),
    pytest.param([signal.SIGHUP], 129, id="SIGHUP"),
]
REST = [pytest.mark.real]
CASES = [
    pytest.param(stage, *end.values, id=f"{stage}-{end.id}", marks=[] if fast else REST)
    for stage in HANGS
    for end in ENDS
    for fast in [stage == "provision" and end.id == "SIGINT"]
]


@pytest.mark.parametrize(("stage", "signals", "status"), CASES)
def test_a_signal_ends_a_run_and_its_machines(
    project: Project, stage: str, signals: list[int], status: int
) -> None:
    """Whatever a run is doing, one signal or two end it in good order."""
    project.write(script=WAITS if stage == "provision" else "exit 0", **HANGS[stage])
    with project.started("up", TARGET, "--events", "-", "--keep", "always") as child:
        if stage == "provision":
            until_event(child, "output_line", "waiting")
        else:
            until_event(child, "stage_started", stage)
        for number in signals:
            child.send_signal(number)
        assert child.wait(20) == status
    row = project.row()
    assert (row["outcome"], row["machine"]) == ("cancelled", "destroyed")
    assert project.report()["exit_code"] == status
    project.assert_nothing_left()


@pytest.mark.real  # two seconds long
def test_a_run_under_nohup_outlives_its_terminal(project: Project) -> None:
    """Whoever starts it so has said what a hangup is to do: nothing."""
    project.write(script=f"{SCRIPT}echo waiting\nsleep 2\n")
    child = subprocess.Popen(
        ["nohup", *CLI, "up", TARGET, "--events", "-"],
        cwd=project.folder,
        env=project.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until_event(child, "output_line", "waiting")
    child.send_signal(signal.SIGHUP)
    child.communicate(timeout=60)
    assert child.returncode == 0
    assert project.row()["outcome"] == "built"


MOUNTS = """#!/bin/sh
mkdir tree && mount -t tmpfs tmpfs tree && echo mounted >&2 && exec sleep 60
"""
"""An mmdebstrap that is at work: as root it mounts what a tree needs into it."""


def test_an_image_that_is_interrupted_leaves_no_mount(project: Project) -> None:
    """What is mounted in a half-made tree would stay on this host, and the tree with it."""
    require(
        "unshare", "mount", that=os.geteuid() == 0, because="only root's mmdebstrap mounts here"
    )
    programs = project.home / "bin"
    programs.mkdir()
    (programs / "mmdebstrap").write_text(MOUNTS)
    (programs / "mmdebstrap").chmod(0o755)
    project.write(image={"bootstrap": "bookworm"})
    path = f"{programs}:{project.environ['PATH']}"
    try:
        with project.started("up", TARGET, "--events", "-", PATH=path) as child:
            until_event(child, "output_line", "mounted")
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 130
        assert mounts_below(project.home) == []
        assert list(project.home.glob("cache/build-orchestrator/images/*.part")) == []
    finally:
        for place in mounts_below(project.home):
            subprocess.run(["umount", place], check=True)


def mounts_below(folder: Path) -> list[str]:
    """Where something is mounted below a folder."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [place for _, place, *_ in map(str.split, mounts) if place.startswith(f"{folder}/")]


@pytest.mark.real
def test_what_waits_for_its_turn_is_not_started(project: Project) -> None:
    """Of two targets with -j1 the second never gets a machine."""
    project.write(script=WAITS, targets={"debian_one": {}, "debian_two": {}})
    with project.started("up", "debian_*", "-j1", "--events", "-") as child:
        until_event(child, "output_line", "waiting")
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 143
    assert {row["outcome"] for row in project.rows().values()} == {"cancelled"}
    assert sorted(row["machine"] for row in project.rows().values()) == ["destroyed", "none"]
    project.assert_nothing_left()


@pytest.mark.real
def test_a_leak_counts_more_than_a_signal(project: Project) -> None:
    """A machine that may be alive is the first thing a caller must hear of: exit 5."""
    project.write(script=WAITS, options={"refuse_to_die": "true"})
    with project.started("up", TARGET, "--events", "-") as child:
        until_event(child, "output_line", "waiting")
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 5
    assert project.row()["machine"] == "leaked"
    assert project.build("sweep").status == 0
    project.assert_nothing_left()


@pytest.mark.real
def test_what_is_published_by_then_is_in_the_row(project: Project) -> None:
    """A signal while one destination says nothing hides no other that has it all."""
    project.write(recipe={"destinations": ["dist/", "s3://bucket/agents"]})
    secrets = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = ["up", TARGET, "--s3-endpoint", endpoint, "--events", "-"]
        with project.started(*arguments, **secrets) as child:
            until_event(child, "stage_started", "publish")
            connection, _ = silent.accept()  # The folder beside it takes milliseconds.
            with connection:
                child.send_signal(signal.SIGINT)
                assert child.wait(20) == 130
    row = project.row()
    assert [(one["name"], one["state"]) for one in row["published"]] == [
        ("agent.txt", "yes"),
        ("agent.txt", "no"),
    ]
    assert (row["outcome"], row["published"][1]["reason"]) == ("cancelled", "stopped by SIGINT")
    project.assert_nothing_left()
