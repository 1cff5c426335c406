"""Orchestrators of machines in AWS die at random moments, and AWS is gone for a while.

``make soak`` runs this, on the EC2 stand-in with machines without a disk. SOAK_SEED repeats the
moments of an earlier run; SOAK_AWS_KILLS changes how many there are.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.projects import SCRIPT, until_event
from tests.real.aws_projects import TARGET, AwsProject, server
from tests.soak.conftest import Say
from tests.soak.test_kills import SEED, duration_s, kill_at, reached
from tests.standins.ec2 import Ec2

__all__ = ["server"]

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("SOAK_AWS_KILLS", "50"))
GONE_S = 60


@pytest.fixture
def project(server: Ec2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsProject]:
    made = AwsProject(tmp_path_factory.mktemp("a"), server)
    made.limit_s = 1800
    made.environ["AWS_ENDPOINT_URL"] = server.endpoint
    yield made
    made.end()
    server.reset()


def test_many_kills_and_one_sweep(project: AwsProject, say: Say, tmp_path: Path) -> None:
    """Nothing is left in AWS of those that died, and the machine of one that lives is never swept.

    A launch without an answer may become a machine for five minutes, so the sweep at the end may
    take as long.
    """
    moments = random.Random(SEED)
    gate = tmp_path / "gate"
    living = AwsProject(tmp_path / "living", project.server)
    living.environ |= project.environ | {"HOME": str(living.home)}
    living.environ["XDG_STATE_HOME"] = project.environ["XDG_STATE_HOME"]
    living.write(
        script=f"{SCRIPT}echo waiting\nwhile [ ! -e {gate} ]; do sleep 1; done\n", provision_s=3600
    )
    project.write(script=f"{SCRIPT}sleep 0.4\n")
    whole_s = min(duration_s(project, TARGET) for _ in range(3))
    with living.started("up", TARGET, "--events", "-") as child:
        until_event(child, '"waiting"')
        (own,) = project.server.alive()
        left = Counter[int]()
        for number in range(KILLS):
            with project.started("up", TARGET) as killed:
                kill_at(killed, time.monotonic() + moments.uniform(0, 1.1 * whole_s))
            left[len(project.server.alive()) - 1] += 1
            if number % 10 == 9:  # While others die, a sweep of this host spares who lives.
                project.build("sweep", "--provider", "aws", "--dry-run")
        swept = project.build("sweep", "--provider", "aws")
        assert swept.status == 0, f"seed {SEED}: {swept.words}"
        assert project.server.alive() == [own], f"seed {SEED}: {swept.words}"
        assert "its orchestrator is alive" in swept.stdout
        shown = project.server.shown()
        assert (len(shown["keys"]), len(shown["groups"])) == (1, 1), f"seed {SEED}: {shown}"
        gate.touch()
        child.communicate(timeout=120)
        assert child.returncode == 0
    assert project.server.left() == []
    project.assert_nothing_left()
    ends = Counter(reached(folder) for folder in project.runs)
    say(f"{KILLS} kills, seed {SEED}, a run takes {whole_s:.1f} s")
    say(f"machines alive after a kill (how often): {dict(left)}; came as far as: {dict(ends)}")
    living.end()


def test_aws_is_gone_for_a_minute(project: AwsProject) -> None:
    """Every request fails while the script runs and when the machine is to be terminated."""
    project.write(script=f"{SCRIPT}echo waiting\nsleep 2\n", destroy_s=180)
    with project.at_the_word(
        "waiting", lambda: project.server.fault("*", status=503, seconds=GONE_S)
    ):
        started = time.monotonic()
        done = project.build("up", TARGET)
    assert done.status == 0, done.words
    assert time.monotonic() - started > GONE_S
    assert len(project.launched()) == 1
    assert project.server.left() == []
