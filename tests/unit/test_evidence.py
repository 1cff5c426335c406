"""Was it the script or its environment? Each rule fires on what can be measured, in order."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import Interrupted
from build_orchestrator.evidence import _read, judge
from build_orchestrator.journal import HEARTBEAT
from build_orchestrator.locks import try_lock
from build_orchestrator.machine.contract import MachineRequest
from build_orchestrator.machine.fake import FakeMachine, FakeProvider
from build_orchestrator.model import Distro, Identity, Image, Size

RUN = uuid.uuid4().hex
NAME = f"bo-{RUN}-evidence_fake-1"
"""One for each process: machines are destroyed by name, whoever of this host has started them."""


def request(folder: Path, **options: str) -> MachineRequest:
    place = folder / "machines" / NAME
    place.mkdir(parents=True)
    return MachineRequest(
        identity=Identity(
            provider="fake",
            name=NAME,
            run_uuid=RUN,
            target="evidence_fake",
            attempt=1,
            folder=str(place),
        ),
        distro=Distro(name="evidence", distribution="Debian", release="x"),
        image=Image(source="none", sha256="", disk=""),
        size=Size(),
        limit_s=60,
        console=folder / "console.txt",
        options=options,
    )


def booted(folder: Path, **options: str) -> FakeMachine:
    return FakeProvider().boot(
        request(folder, **options),
        deadline=Deadline("boot", 20),
        cancel=NEVER,
        identified=lambda _: None,
    )


@pytest.fixture(autouse=True)
def heartbeat(tmp_path: Path) -> Iterator[None]:
    """Else any `build up` that is tested beside this would sweep the machine."""
    held = try_lock(tmp_path / HEARTBEAT)
    assert held is not None
    yield
    held.release()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[FakeMachine]:
    made = booted(tmp_path)
    yield made
    made.destroy(deadline=Deadline("destroy", 20))


def test_a_script_that_fails_in_a_healthy_machine_is_to_blame(
    machine: FakeMachine, tmp_path: Path
) -> None:
    """Nothing speaks for the environment, so the failure is the script's own."""
    verdict = judge(machine, 7, state_folder=tmp_path, cancel=NEVER)
    assert (verdict.environment, verdict.rule) == (False, "script"), verdict.explanation


def test_75_is_the_scripts_word_for_it(machine: FakeMachine, tmp_path: Path) -> None:
    """The script itself says that its environment failed; nobody else is asked."""
    assert judge(machine, 75, state_folder=tmp_path, cancel=NEVER).rule == "status-75"


def test_a_dead_machine_explains_everything(machine: FakeMachine, tmp_path: Path) -> None:
    """A script cannot be blamed for a machine that is gone."""
    machine.destroy(deadline=Deadline("destroy", 20))
    verdict = judge(machine, 7, state_folder=tmp_path, cancel=NEVER)
    assert (verdict.environment, verdict.rule) == (True, "machine-dead")


def test_a_machine_that_cannot_be_asked_is_the_environment(tmp_path: Path) -> None:
    """It lives and does not answer."""
    machine = booted(tmp_path, fail_at="provision")
    verdict = judge(machine, 7, state_folder=tmp_path, cancel=NEVER)
    machine.destroy(deadline=Deadline("destroy", 20))
    assert (verdict.environment, verdict.rule) == (True, "machine-silent")


def test_a_wish_to_stop_is_no_evidence(machine: FakeMachine, tmp_path: Path) -> None:
    """Who interrupts the questions gets no verdict about the environment."""
    cancel = Cancel()
    cancel.set(2)
    with pytest.raises(Interrupted):
        judge(machine, 7, state_folder=tmp_path, cancel=cancel)


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        ([], "script"),
        (["free_kib 4096 /", "free_inodes 1 /", "oom_kills 0"], "script"),
        (["free_kib 4095 /tmp"], "file-system-full"),
        (["free_kib 900000 /", "free_inodes 0 /"], "file-system-full"),
        (["free_kib 900000 /", "oom_kills 1"], "out-of-memory"),
        (["free_kib - /", "No space left on device", "oom_kills"], "script"),
    ],
)
def test_what_the_machine_answers_decides(answers: list[str], rule: str) -> None:
    """Numbers at the edge, and answers that are none."""
    verdict = _read(answers)
    assert (verdict.rule, verdict.environment) == (rule, rule != "script")
    assert verdict.explanation
