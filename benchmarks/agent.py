"""What the packager costs over the bare commands that make an agent of the same modules.

Both run one after the other in the same machine, which has the prerequisites already (quicker
where `build bake` has put them into its image): by hand `python3 -m venv`, `pip install` and `tar`;
ours `provision.sh`, which also carries the interpreter, validates, writes a lock and makes the same
bytes every time. Each starts without any cache.

    python -m benchmarks.agent [--runs N] [--target debian_bookworm_qemu] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from statistics import median

import yaml

from benchmarks.measuring import BUILD, ROOT, host, load, measured
from build_orchestrator.agent.config import load as load_settings
from build_orchestrator.agent.modules import asked_for

RECIPE = {
    "script": "compare.sh",
    "flavour": "prerequisites",
    "inputs": ["compare.sh", "hand.txt", "provision/", "packager.yaml", "system.yaml"],
    "outputs": [{"name": "seconds.txt"}],
    "pass_host_trust": True,
}
SCRIPT = """\
#!/bin/sh
set -eu
PREREQUISITES_DEFINE_ONLY=yes
. provision/prerequisites.sh
install_prerequisites

by_hand() {
    "$PYTHON" -m venv cloudify/env
    cloudify/env/bin/pip install --quiet --no-cache-dir -r "$BUILD_INPUTS/hand.txt"
    tar -czf agent.tar.gz cloudify/env
}

ours() {
    BUILD_OUTPUT=$PWD "$BUILD_INPUTS/provision/provision.sh" >ours.log 2>&1
}

system() {
    cp "$BUILD_INPUTS/packager.yaml" "$BUILD_INPUTS/system.yaml" .
    cp system.yaml "$BUILD_INPUTS/packager.yaml"
    ours
    cp packager.yaml "$BUILD_INPUTS/packager.yaml"
}

timed() { # NAME: in an empty folder of its own
    mkdir -p "/var/tmp/compare/$1"
    cd "/var/tmp/compare/$1"
    before=$(date +%s%3N)
    "$1"
    after=$(date +%s%3N)
    echo "$1 $((after - before)) $(stat -c %s ./*.tar.gz)" >>"$BUILD_OUTPUT/seconds.txt"
    cd /
    rm -rf /var/tmp/compare
}

for number in $(seq "$RUNS"); do
    # In turns, so that none of them always finds what another has warmed.
    order='by_hand ours system'
    [ $((number % 2)) = 1 ] || order='system ours by_hand'
    for name in $order; do timed "$name"; done
done
"""


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent")
    parser.add_argument("--runs", type=int, default=2, metavar="N", help="rounds that are counted")
    parser.add_argument("--target", default="debian_bookworm_qemu")
    parser.add_argument("--json", action="store_true", help="every single number, as JSON")
    options = parser.parse_args()
    before = load()
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        rows = _compare(Path(folder), options.target, options.runs)
    if options.json:
        print(json.dumps({"host": host(), "load": before, "rows": rows}, indent=2))
    else:
        _show(rows, before)


def _compare(place: Path, target: str, runs: int) -> dict[str, list[tuple[float, int]]]:
    """Seconds and bytes of each way, once for each round."""
    project = place / "project"
    _make_project(project, runs)
    output = place / "up.out"
    argv = [*BUILD, "up", target, "--recipe", "compare"]
    measured(argv, cwd=project, env={"XDG_STATE_HOME": str(place / "state")}, output=output)
    (found,) = project.glob("runs/*/*/seconds.txt")
    rows: dict[str, list[tuple[float, int]]] = {}
    for line in found.read_text().splitlines():
        name, milliseconds, size_bytes = line.split()
        rows.setdefault(name, []).append((int(milliseconds) / 1000, int(size_bytes)))
    return rows


def _make_project(folder: Path, runs: int) -> None:
    folder.mkdir()
    settings = yaml.safe_load((ROOT / "targets.yaml").read_text())
    settings["recipes"] = {"compare": {**RECIPE, "environment": {"RUNS": str(runs)}}}
    settings["defaults"] |= {"recipe": "compare", "deadlines": {"provision_s": 7200}}
    (folder / "targets.yaml").write_text(yaml.safe_dump(settings))
    (folder / "compare.sh").write_text(SCRIPT)
    shutil.copytree(ROOT / "provision", folder / "provision", symlinks=True)
    packager = (ROOT / "packager.yaml").read_text()
    (folder / "packager.yaml").write_text(packager)
    (folder / "system.yaml").write_text(f"{packager}interpreter: system\n")
    asked = asked_for(load_settings(ROOT / "packager.yaml"))
    (folder / "hand.txt").write_text("".join(f"{source}\n" for _, source in asked))


def _show(rows: dict[str, list[tuple[float, int]]], before: float) -> None:
    print(", ".join(f"{name} {value}" for name, value in host().items()))
    print("| agent | rounds | seconds | tar | ratio | load |\n|---|---|---|---|---|---|")
    hand = median(seconds for seconds, _ in rows["by_hand"])
    for name, found in rows.items():
        seconds = median(seconds for seconds, _ in found)
        size = f"{found[-1][1] / 1e6:.1f} MB"
        ratio = "" if name == "by_hand" else f"{seconds / hand:.2f}"
        words = (name, str(len(found)), f"{seconds:.0f}", size, ratio, str(before))
        print("| " + " | ".join(words) + " |")


if __name__ == "__main__":
    main()
