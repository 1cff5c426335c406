"""What the orchestrator itself costs for each build when many go on at once.

N builds run on the fake provider, whose machines are sleeping processes, or on the EC2 stand-in,
whose machines are each an sshd in namespaces of its own. Each script waits until all N machines
are there; then memory is read, the CPU time of a while is taken, and the scripts end. Memory and
CPU time are the orchestrator's own, without its children (the ssh, shells and tars).

    python -m benchmarks.scale [N...] [--provider aws] [--json]        N defaults to 1 10 100
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import BUILD, ROOT, host, load, own_cpu_s
from tests.standins.ec2 import CREDENTIALS, PORT, REGION, Ec2, ec2_server

HEADS = (
    *("builds", "wall s", "cpu s", "cpu s a build", "mib", "mib a build", "% of a core waiting"),
    *("threads", "load"),
)
AWS_HEADS = ("DescribeInstances", "RunInstances", "CreateTags")
LIMIT_S = 1800.0
WAITING_S = 30.0
"""For so long the scripts only wait, and the orchestrator with them."""
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
    parser.add_argument("--provider", choices=["fake", "aws"], default="fake")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for count in options.builds:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bo-"))
            server = stack.enter_context(ec2_server()) if options.provider == "aws" else None
            rows.append(_row(count, Path(folder), rows, server))
        print(f"{count} builds: {rows[-1]['wall s']} s", file=sys.stderr)
    if options.json:
        print(json.dumps({"host": host(), "rows": rows}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in host().items()))
    heads = [*HEADS, *(AWS_HEADS if options.provider == "aws" else ())]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[head]) for head in heads) + " |")


def _row(
    count: int, folder: Path, before: list[dict[str, Any]], server: Ec2 | None
) -> dict[str, Any]:
    """One number of builds; costs for each build are over those of the first row's run."""
    project, gate, events = folder / "project", folder / "gate", folder / "events.jsonl"
    _make_project(project, gate, count, server)
    os.mkfifo(gate)
    holding = os.open(gate, os.O_RDWR)  # As long as this is open, every script waits.
    busy, started = load(), time.monotonic()
    child = _start(project, folder, count, events, server)
    _wait_for_machines(child, events, count)
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
    )
    waiting_from = own_cpu_s(child.pid)
    time.sleep(WAITING_S)
    waiting = (own_cpu_s(child.pid) - waiting_from) / WAITING_S
    (folder / "open").touch()
    (folder / "open").rename(gate)  # Who comes late finds a file, and its end.
    os.close(holding)
    cpu_s = _ended(child, folder)
    mib = int(status["VmRSS"].split()[0]) / 1024
    first = before[0] if before else {"builds": 0, "cpu s": 0.0, "mib": 0.0}
    more = count - first["builds"]
    asked = server.shown()["actions"] if server else {}
    return {
        "builds": count,
        "wall s": round(time.monotonic() - started - WAITING_S, 1),
        "cpu s": round(cpu_s, 2),
        "cpu s a build": round((cpu_s - first["cpu s"]) / more, 3) if more else "",
        "mib": round(mib, 1),
        "mib a build": round((mib - first["mib"]) / more, 2) if more else "",
        "% of a core waiting": round(100 * waiting, 2),
        "threads": int(status["Threads"]),
        **{name: asked.get(name, 0) for name in AWS_HEADS},
        "load": busy,
    }


def _make_project(project: Path, gate: Path, count: int, server: Ec2 | None) -> None:
    project.mkdir()
    (project / "wait.sh").write_text(SCRIPT.format(gate=gate))
    providers = {"aws": {"image": {"ami": server.ami}}} if server else {"fake": {}}
    distro = {"distribution": "Fake", "providers": providers}
    limits = ("boot_s", "transfer_s", "provision_s", "collect_s", "destroy_s")
    settings = {
        "schema": 1,
        "defaults": {
            "recipe": "wait",
            "deadlines": dict.fromkeys(limits, LIMIT_S),
            "launch": {"region": REGION, "port": PORT},
        },
        # JSON is YAML.
        "distros": {f"d{number}": {**distro, "release": f"r{number}"} for number in range(count)},
        "recipes": {"wait": {"script": "wait.sh", "outputs": [{"name": "{target}.txt"}]}},
    }
    (project / "targets.yaml").write_text(json.dumps(settings))


def _start(
    project: Path, folder: Path, count: int, events: Path, server: Ec2 | None
) -> subprocess.Popen[bytes]:
    selector, environ = "*_fake", {"XDG_STATE_HOME": str(folder / "state")}
    if server:
        selector = "*_aws"
        environ |= {**CREDENTIALS, "AWS_ENDPOINT_URL": server.endpoint}
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [*BUILD, "up", selector, "-j", str(count), "--events", str(events), "-q"],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
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
