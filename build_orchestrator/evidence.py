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
from build_orchestrator.provision import TEMPORARY_FAILURE
from build_orchestrator.transport.windows import batch

ASK_S = 30.0
FULL_KIB = 4096
"""A file system with less than this left is full: nothing sensible fits any more."""

QUESTIONS = b"""\
df -kP "${MACHINE_ROOT:-/}" "${MACHINE_ROOT:-}/var/lib/build-orchestrator/output" /tmp 2>/dev/null |
  awk 'NR > 1 { print "free_kib", $4, $6 }'
df -iP "${MACHINE_ROOT:-/}" 2>/dev/null | awk 'NR > 1 && $2 > 0 { print "free_inodes", $4, $6 }'
[ -n "${MACHINE_ROOT:-}" ] || awk '$1 == "oom_kill" { print "oom_kills", $2 }' /proc/vmstat
"""

WINDOWS_QUESTIONS = """\
powershell -NoProfile -NonInteractive -Command "'free_kib {0} C:' -f [math]::Floor((Get-PSDrive C).Free / 1KB)"
"""  # noqa: E501 (a line of cmd)


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
    for answer in answers:
        kind, _, rest = answer.partition(" ")
        count, _, place = rest.partition(" ")
        if not count.isdigit():
            continue
        if kind == "free_kib" and int(count) < FULL_KIB:
            return Verdict(True, "file-system-full", f"{place} in the machine is full")
        if kind == "free_inodes" and int(count) == 0:
            return Verdict(True, "file-system-full", f"{place} in the machine has no inodes left")
        if kind == "oom_kills" and int(count) > 0:
            return Verdict(True, "out-of-memory", "the machine's kernel killed for want of memory")
    return Verdict(False, "script", "the machine is well, so the failure is the script's own")
