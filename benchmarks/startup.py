"""CPU time of the commands that only look: they must feel instant.

    python -m benchmarks.startup [--runs 11] [--json]

Exits with 1 when `build --help` or `build list` takes more than its limit, or loads boto3.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import BUILD, ROOT, host, load, measured, middle

COMMANDS = {
    "build --help": ["--help"],
    "build list": ["list"],
    "build plan": ["plan", "debian_bookworm_qemu"],
}
LIMITS_S = {"build --help": 0.150, "build list": 0.150}
HEADS = ("command", "cpu s", "wall s", "limit s", "loads boto3")


def main() -> None:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--runs", type=int, default=11, metavar="N")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [_row(name, arguments, options.runs) for name, arguments in COMMANDS.items()]
    if options.json:
        print(json.dumps({"host": host(), "load": load(), "rows": rows}, indent=2))
    else:
        print(", ".join(f"{name} {value}" for name, value in host().items()) + f", load {load()}")
        print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
        for row in rows:
            print("| " + " | ".join(str(row[head]) for head in HEADS) + " |")
    bad = [row for row in rows if row["cpu s"] > (row["limit s"] or 1e9) or row["loads boto3"]]
    sys.exit(1 if bad else 0)


def _row(name: str, arguments: list[str], runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        costs = [measured([*BUILD, *arguments], cwd=ROOT, output=output) for _ in range(runs + 1)][
            1:
        ]  # The first one fills the caches.
    return {
        "command": name,
        "cpu s": middle(cost.cpu_s for cost in costs),
        "wall s": middle(cost.wall_s for cost in costs),
        "limit s": LIMITS_S.get(name, ""),
        "loads boto3": "boto3" in loaded(arguments),
    }


def loaded(arguments: list[str]) -> set[str]:
    """The modules that one command has imported by its end."""
    program = (
        "import sys\n"
        "from build_orchestrator.cli import run\n"
        "status = run(sys.argv[1:])\n"
        "print(status, *sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    status, *names = ended.stderr.split()
    assert status == "0", ended.stderr
    return set(names)


if __name__ == "__main__":
    main()
