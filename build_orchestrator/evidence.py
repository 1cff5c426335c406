"""Was it the build or its environment? Decided by what can be measured, never by matching text.

The rules are asked in order; the first that fires stands in the report under its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_orchestrator import cache
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.machine.contract import Machine
from build_orchestrator.machine.shortage import QUESTIONS, WINDOWS_QUESTIONS, shortage
from build_orchestrator.provision import TEMPORARY_FAILURE
from build_orchestrator.transport.windows import batch

ASK_S = 30.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who is to blame for a script that did not succeed."""

    environment: bool
    rule: str
    """Which rule fired, such as ``machine-dead`` or ``script``."""
    explanation: str


def judge(
    machine: Machine, status: int, *, state_folder: Path, cancel: Cancel, windows: bool = False
) -> Verdict:
    """Ask the machine and this host why the script ended with this status (or never ended)."""
    if status == TEMPORARY_FAILURE:
        return Verdict(True, "status-75", "the script said that its environment failed (75)")
    if not machine.alive():
        return Verdict(True, "machine-dead", "the machine is not alive any more")
    try:
        full = cache.disk_is_full(state_folder)
    except OSError as error:
        return Verdict(True, "host", f"this host failed us: {error}")
    if full:
        return Verdict(True, "host-disk-full", f"this host's disk is full ({state_folder})")
    answers: list[str] = []
    try:
        machine.run(
            batch({}, WINDOWS_QUESTIONS) if windows else QUESTIONS,
            deadline=Deadline("provision", ASK_S, "answers of the machine"),
            cancel=cancel,
            on_line=answers.append,
        )
    except OrchestratorError as error:
        cancel.check()
        return Verdict(True, "machine-silent", f"the machine does not answer: {error.brief}")
    return _read(answers)


def _read(answers: list[str]) -> Verdict:
    if lacking := shortage(answers):
        return Verdict(True, lacking.rule, lacking.explanation)
    return Verdict(False, "script", "the machine is well, so the failure is the script's own")
