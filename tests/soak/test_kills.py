"""Orchestrators die of SIGKILL at random moments, again and again; one sweep leaves nothing.

``make soak`` runs this. SOAK_SEED repeats the moments of an earlier run; SOAK_KILLS and
SOAK_REAL_KILLS change how many there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.journal import records
from build_orchestrator.locks import cache_home
from tests.conftest import require
from tests.contract.projects import SCRIPT, TARGET, Project
from tests.soak.conftest import Say

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("SOAK_KILLS", "100"))
REAL_KILLS = int(os.environ.get("SOAK_REAL_KILLS", "12"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.randrange(1, 1 << 32)
AT_ONCE = 4
REAL_TARGET = "debian_bookworm_qemu"


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project whose path is short enough for sockets below it."""
    made = Project(tmp_path_factory.mktemp("s"))
    yield made
    made.end()


def duration_s(project: Project, target: str) -> float:
    """How long one run takes that nobody kills."""
    started = time.monotonic()
    done = project.build("up", target)
    assert done.status == 0, done.words
    return time.monotonic() - started


def reached(folder: Path) -> str:
    """How far a killed run came: its last stage, or what it had before any."""
    path = folder / "events.jsonl"
    if not path.exists():
        return "nothing"
    stages = [
        event["stage"] if event["event"] == "stage_started" else f"after {event['stage']}"
        for event in records(path)
        if event["event"] in ("stage_started", "stage_ended")
    ]
    if (folder / "report.json").exists():
        return "the end"
    return stages[-1] if stages else "start"


def kill_at(child: subprocess.Popen[str], moment: float) -> None:
    """Kill an orchestrator at a time of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))
    child.send_signal(signal.SIGKILL)


def kill_one(project: Project, target: str, delay_s: float) -> None:
    """Start a run and kill it after a while."""
    with project.started("up", target) as child:
        kill_at(child, time.monotonic() + delay_s)


def kill_some(project: Project, delays_s: list[float]) -> None:
    """Start runs at the same time, and kill each after its while."""
    with contextlib.ExitStack() as stack:
        runs = []
        for delay_s in delays_s:
            child = stack.enter_context(project.started("up", TARGET))
            runs.append((time.monotonic() + delay_s, child))
        for moment, child in sorted(runs, key=lambda run: run[0]):
            kill_at(child, moment)


def journals_are_readable(project: Project) -> None:
    """Each line of each journal is a record, but for a last one that was torn."""
    for path in project.folder.glob("runs/*/journal.jsonl"):
        lines = path.read_bytes().split(b"\n")
        assert len(records(path)) >= len(lines) - 1
        assert all(json.loads(line)["kind"] for line in lines[:-1])


def test_many_kills_on_the_fake(project: Project, say: Say) -> None:
    """A hundred kills, some runs side by side, with a sweep after each round."""
    moments = random.Random(SEED)
    project.write(options={"boot_s": "0.3"}, script=f"{SCRIPT}sleep 0.4\n")
    whole_s = min(duration_s(project, TARGET) for _ in range(3))
    done, left = 0, 0
    while done < KILLS:
        count = min(AT_ONCE, KILLS - done)
        kill_some(project, [moments.uniform(0, 1.1 * whole_s) for _ in range(count)])
        done += count
        left += bool(project.alive())
        swept = project.build("sweep")
        assert swept.status == 0, f"seed {SEED}: {swept.words}"
        project.assert_nothing_left()
    journals_are_readable(project)
    ends = Counter(reached(folder) for folder in project.runs)
    say(f"{done} kills, seed {SEED}, a run takes {whole_s:.2f} s")
    say(f"rounds that left a machine alive: {left}; runs came as far as: {dict(ends)}")


def test_kills_on_real_machines(project: Project, say: Say) -> None:
    """The same with QEMU: its process, its disk and its keys are gone after a sweep."""
    require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen")
    moments = random.Random(SEED)
    project.limit_s = 1800  # The first run may have to make the image.
    project.environ["XDG_CACHE_HOME"] = str(cache_home().parent)
    project.write(script=f"{SCRIPT}sleep 3\n")
    row = "{image: {bootstrap: bookworm}}"
    path = project.folder / "targets.yaml"
    path.write_text(
        path.read_text().replace("fake: {}", f"qemu: {row}").replace(": fake", ": qemu")
    )
    duration_s(project, REAL_TARGET)  # Makes image and snapshot where they are missing.
    whole_s = duration_s(project, REAL_TARGET)
    left = 0
    for _ in range(REAL_KILLS):
        kill_one(project, REAL_TARGET, moments.uniform(0.1 * whole_s, 0.9 * whole_s))
        left += bool(project.alive())
        swept = project.build("sweep")
        assert swept.status == 0, f"seed {SEED}: {swept.words}"
        project.assert_nothing_left()
    journals_are_readable(project)
    assert left, "at least one kill met a living machine"
    ends = Counter(reached(folder) for folder in project.runs)
    say(f"{REAL_KILLS} kills of QEMU's orchestrator, seed {SEED}, a run takes {whole_s:.1f} s")
    say(f"kills that left a machine alive: {left}; runs came as far as: {dict(ends)}")
