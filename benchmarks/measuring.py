"""Run a child and say what it cost; say what this host is and how busy."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
BUILD = (sys.executable, "-m", "build_orchestrator")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one child cost."""

    started_at: float
    """Seconds since the epoch."""
    wall_s: float
    own_cpu_s: float
    """User and system time of the child itself, to 10 ms."""
    cpu_s: float
    """The same with all of its own children that it waited for."""


def measured(
    argv: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, output: Path
) -> Cost:
    """Run a child to its end, with both of its outputs in a file.

    Raises:
        SystemExit: it failed; the end of its output is shown.
    """
    with output.open("wb") as file:
        started_at, started = time.time(), time.monotonic()
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        wall_s = time.monotonic() - started
    own_s = own_cpu_s(child.pid)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if status != 0:
        tail = output.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{' '.join(argv)}\nended with status {child.returncode}:\n{tail}")
    return Cost(
        started_at=started_at,
        wall_s=wall_s,
        own_cpu_s=own_s,
        cpu_s=used.ru_utime + used.ru_stime,
    )


def own_cpu_s(pid: int) -> float:
    """User and system time of one process alone, to 10 ms; one that is not reaped still tells."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def middle(values: Iterable[float]) -> float:
    """The median, to the millisecond."""
    return round(median(values), 3)


def host() -> dict[str, str]:
    """What the numbers were measured on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpus": f"{os.cpu_count()} x {model}",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def load() -> float:
    """Processes that wanted to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2)
