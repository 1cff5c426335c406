"""How long the prerequisites take in a machine from the base image, and from a baked image.

A recipe that does nothing but `install_prerequisites` is built in turns from both; its phase of
that name is the time that counts. Baking itself is measured once.

    python -m benchmarks.bake [--runs N] [--target debian_bookworm_qemu] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measuring import BUILD, ROOT, host, load, measured, middle

RECIPE = {
    "script": "prerequisites-only.sh",
    "flavour": "prerequisites",
    "inputs": ["provision/"],
    "outputs": [{"name": "done.txt"}],
    "pass_host_trust": True,
}
SCRIPT = """\
#!/bin/sh
set -eu
PREREQUISITES_DEFINE_ONLY=yes
. provision/prerequisites.sh
echo '::phase prerequisites'
install_prerequisites
echo '::phase rest'
echo done >"$BUILD_OUTPUT/done.txt"
"""
WAYS = {"base": "--no-bake", "baked": "--require-baked"}


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bake")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="pairs that are counted")
    parser.add_argument("--target", default="debian_bookworm_qemu")
    parser.add_argument("--json", action="store_true", help="every single number, as JSON")
    options = parser.parse_args()
    before = load()
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        found = _compare(Path(folder), options.target, options.runs)
    if options.json:
        print(json.dumps({"host": host(), "load": before, **found}, indent=2))
    else:
        _show(found, before)


def _compare(place: Path, target: str, runs: int) -> dict[str, Any]:
    """Seconds of the phase by way, and those of the bake, which makes nothing where it is fresh."""
    project = place / "project"
    _make_project(project)
    environment = {"XDG_STATE_HOME": str(place / "state")}
    output = place / "out"
    argv = [*BUILD, "bake", target]
    bake_s = measured(argv, cwd=project, env=environment, output=output).wall_s
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(runs + 1):
        # In turns; the first pair saves both images' first starts and is not counted.
        for way in reversed(WAYS) if number % 2 else WAYS:
            argv = [*BUILD, "up", target, WAYS[way]]
            measured(argv, cwd=project, env=environment, output=output)
            report = max(project.glob("runs/*/report.json"), key=lambda path: path.stat().st_mtime)
            (row,) = json.loads(report.read_text())["results"]
            if number:
                found[way].append(row["phases_s"]["prerequisites"])
    return {"bake_s": bake_s, "prerequisites_s": found}


def _make_project(folder: Path) -> None:
    folder.mkdir()
    settings = yaml.safe_load((ROOT / "targets.yaml").read_text())
    settings["recipes"] = {"only": RECIPE}
    settings["defaults"] |= {"recipe": "only"}
    (folder / "targets.yaml").write_text(yaml.safe_dump(settings))
    (folder / "prerequisites-only.sh").write_text(SCRIPT)
    shutil.copytree(ROOT / "provision", folder / "provision", symlinks=True)


def _show(found: dict[str, Any], before: float) -> None:
    print(", ".join(f"{name} {value}" for name, value in host().items()))
    print("| prerequisites | pairs | seconds | ratio | load |\n|---|---|---|---|---|")
    seconds = {way: middle(each) for way, each in found["prerequisites_s"].items()}
    for way, each in found["prerequisites_s"].items():
        ratio = f"{seconds['base'] / seconds[way]:.1f}"
        words = (way, str(len(each)), f"{seconds[way]:.2f}", ratio, str(before))
        print("| " + " | ".join(words) + " |")
    print(f"baking took {found['bake_s']:.0f} s")


if __name__ == "__main__":
    main()
