"""What a machine has run out of, by what it says of itself: room, inodes, memory.

A machine of a build is asked after its script has failed; in one of Packer's, where nobody can ask,
packer/inside.sh says the same by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
class Shortage:
    """What there is too little of."""

    rule: str
    """``file-system-full`` or ``out-of-memory``."""
    explanation: str


def shortage(answers: Iterable[str]) -> Shortage | None:
    """What these answers to the questions show to be short: the first; None where all is well."""
    for answer in answers:
        kind, _, rest = answer.partition(" ")
        count, _, place = rest.partition(" ")
        if not count.isdigit():
            continue
        if kind == "free_kib" and int(count) < FULL_KIB:
            return Shortage("file-system-full", f"{place} in the machine is full")
        if kind == "free_inodes" and int(count) == 0:
            return Shortage("file-system-full", f"{place} in the machine has no inodes left")
        if kind == "oom_kills" and int(count) > 0:
            return Shortage("out-of-memory", "the machine's kernel killed for want of memory")
    return None
