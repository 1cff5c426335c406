"""What the orchestrator itself costs for each build when many go on at once.

N builds run on the fake provider, whose machines are sleeping processes. Each script waits until
all N machines are there; then memory is read, and the scripts end. CPU time is the orchestrator's
own, without its children (the shells and tars that play the machines).

    python -m benchmarks.scale [N...] [--json]        N defaults to 1 10 100
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import BUILD, ROOT, host, load, own_cpu_s

HEADS = ("builds", "wall s", "cpu s", "cpu s a build", "mib", "mib a build", "threads", "load")
LIMIT_S = 1800.0
PAUSE_S = 0.2

SCRIPT = """\
#!/bin/sh
# The gate is a pipe that nobody writes to, until it is replaced by an empty file.
cat {gate}
echo done >"$BUILD_OUTPUT/$BUILD_TARGET.txt"
"""


def main() -> None:
    """Measure each number of builds, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("builds", type=int, nargs="*", default=[1, 10, 100], metavar="N")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for count in options.builds:
        with tempfile.TemporaryDirectory(prefix="bo-") as folder:
            rows.append(_row(count, Path(folder), rows))
        print(f"{count} builds: {rows[-1]['wall s']} s", file=sys.stderr)
    if options.json:
        print(json.dumps({"host": host(), "rows": rows}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in host().items()))
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[head]) for head in HEADS) + " |")


def _row(count: int, folder: Path, before: list[dict[str, Any]]) -> dict[str, Any]:
    """One number of builds; costs for each build are over those of the first row's run."""
    project, gate, events = folder / "project", folder / "gate", folder / "events.jsonl"
    _make_project(project, gate, count)
    os.mkfifo(gate)
    holding = os.open(gate, os.O_RDWR)  # As long as this is open, every script waits.
    busy, started = load(), time.monotonic()
    child = _start(project, folder, count, events)
    _wait_for_machines(child, events, count)
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
    )
    (folder / "open").touch()
    (folder / "open").rename(gate)  # Who comes late finds a file, and its end.
    os.close(holding)
    cpu_s = _ended(child, folder)
    mib = int(status["VmRSS"].split()[0]) / 1024
    first = before[0] if before else {"builds": 0, "cpu s": 0.0, "mib": 0.0}
    more = count - first["builds"]
    return {
        "builds": count,
        "wall s": round(time.monotonic() - started, 1),
        "cpu s": round(cpu_s, 2),
        "cpu s a build": round((cpu_s - first["cpu s"]) / more, 3) if more else "",
        "mib": round(mib, 1),
        "mib a build": round((mib - first["mib"]) / more, 2) if more else "",
        "threads": int(status["Threads"]),
        "load": busy,
    }


def _make_project(project: Path, gate: Path, count: int) -> None:
    project.mkdir()
    (project / "wait.sh").write_text(SCRIPT.format(gate=gate))
    distro = {"distribution": "Fake", "providers": {"fake": {}}}
    settings = {
        "schema": 1,
        "default_provider": "fake",
        "defaults": {"recipe": "wait", "deadlines": {"provision_s": LIMIT_S, "boot_s": LIMIT_S}},
        # JSON is YAML.
        "distros": {f"d{number}": {**distro, "release": f"r{number}"} for number in range(count)},
        "recipes": {"wait": {"script": "wait.sh", "outputs": [{"name": "{target}.txt"}]}},
    }
    (project / "targets.yaml").write_text(json.dumps(settings))


def _start(project: Path, folder: Path, count: int, events: Path) -> subprocess.Popen[bytes]:
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [*BUILD, "up", "*_fake", "-j", str(count), "--events", str(events), "-q"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _wait_for_machines(child: subprocess.Popen[bytes], events: Path, count: int) -> None:
    """Wait until every build's script has been started."""
    wanted = b'"stage":"provision"'
    end = time.monotonic() + LIMIT_S
    while not events.exists() or events.read_bytes().count(wanted) < count:
        if time.monotonic() > end or os.waitid(
            os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            child.kill()
            raise SystemExit(f"the {count} machines did not come up")
        time.sleep(PAUSE_S)


def _ended(child: subprocess.Popen[bytes], folder: Path) -> float:
    """Wait for its end; the CPU seconds that it alone has used."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    cpu_s = own_cpu_s(child.pid)
    if child.wait() != 0:
        raise SystemExit((folder / "output").read_text(errors="replace")[-3000:])
    return cpu_s


if __name__ == "__main__":
    main()
