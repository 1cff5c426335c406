"""What `build up` on libvirt costs over plain Vagrant doing the same.

Both boot a machine through Vagrant, run a script that writes one file, bring it out and destroy
the machine, in turns (plain, ours, ours, plain, ...), from the same box, with the same settings.
Plain Vagrant does it as a person would: `vagrant up` with a provisioner, `vagrant ssh-config` and
`scp`, `vagrant destroy -f`. A first build of ours is not counted: it makes the box and brings it
into libvirt, which must answer.

    python -m benchmarks.vagrant [--runs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring import BUILD, ROOT, host, load, middle
from build_orchestrator.machine.vagrant import libvirt
from build_orchestrator.machine.vagrant.driver import driver_of

TARGETS = """\
schema: 1
default_provider: libvirt
defaults: {recipe: small, attempts: 1, size: {cpus: 2, memory_mib: 1024}}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    deadlines: {boot_s: 900}
    providers: {libvirt: {image: {bootstrap: bookworm}}}
recipes:
  small: {script: make.sh, inputs: [make.sh], outputs: [{name: out.txt}]}
"""
SCRIPT = '#!/bin/sh\nset -eu\nuname -r >"${BUILD_OUTPUT:-/tmp}/out.txt"\n'
PLAIN = """\
Vagrant.configure("2") do |config|
  config.vm.box = "build-orchestrator/bookworm"
  config.vm.box_check_update = false
  config.vm.boot_timeout = 900
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provider "libvirt" do |provider|
    provider.driver = "DRIVER"
    provider.cpus = 2
    provider.memory = 1024
    provider.graphics_type = "none"
    provider.management_network_keep = true
    provider.disk_driver cache: "unsafe"
  end
  config.vm.provision "shell", path: "make.sh"
end
"""
COUNTING = '#!/bin/sh\necho "$1" >>"$CALLS"\nexec VAGRANT "$@"\n'


def main() -> None:
    """Measure, print a table or JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vagrant")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="pairs that are counted")
    parser.add_argument("--json", action="store_true", help="every single number, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        found = _compare(Path(folder), options.runs)
    if options.json:
        print(json.dumps({"host": host(), **found}, indent=2))
    else:
        _show(found)


def _compare(place: Path, runs: int) -> dict[str, Any]:
    """The pairs, what they come to, and how often each way calls Vagrant."""
    environment = _environment(place)
    project, plain = place / "project", place / "plain"
    for folder in (project, plain):
        folder.mkdir()
        (folder / "make.sh").write_text(SCRIPT)
    (project / "targets.yaml").write_text(TARGETS)
    _ours(project, environment)
    (plain / "Vagrantfile").write_text(PLAIN.replace("DRIVER", driver_of({})))
    ways = {
        "plain": lambda: _plain(plain, environment),
        "ours": lambda: _ours(project, environment),
    }
    pairs: list[dict[str, float]] = []
    calls: dict[str, int] = {}
    _calls(environment)
    for number in range(runs):
        pair = {"load": load()}
        # Which one goes first changes, so that a host that grows slower favours neither.
        for way in reversed(ways) if number % 2 else ways:
            pair[way] = ways[way]()
            calls[way] = _calls(environment)
        pairs.append({**pair, "ratio": pair["ours"] / pair["plain"]})
        said = ", ".join(f"{name} {value:.2f}" for name, value in pairs[-1].items())
        print(f"{number + 1}/{runs}: {said}", file=sys.stderr, flush=True)
    medians = {name: middle(pair[name] for pair in pairs) for name in pairs[0]}
    return {"calls": calls, "medians": medians, "pairs": pairs, "stages_s": _stages(project)}


def _show(found: Mapping[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in host().items()))
    print(f"calls of vagrant: plain {found['calls']['plain']}, ours {found['calls']['ours']}\n")
    heads = ("plain", "ours", "ratio", "load")
    print("| pair | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 1) + "|")
    for name, pair in [*enumerate(found["pairs"], 1), ("median", found["medians"])]:
        print(f"| {name} | " + " | ".join(f"{pair[head]:.2f}" for head in heads) + " |")
    stages = ", ".join(f"{name} {value:.1f}" for name, value in found["stages_s"].items())
    print(f"\nstages of the last build of ours, in s: {stages}")


def _stages(project: Path) -> Mapping[str, float]:
    """How long each stage of the newest build took."""
    report = max(project.glob("runs/*/report.json"))
    (row,) = json.loads(report.read_text())["results"]
    stages: Mapping[str, float] = row["stages_s"]
    return stages


def _environment(place: Path) -> dict[str, str]:
    """One in which every call of Vagrant's is counted."""
    vagrant = shutil.which("vagrant")
    if vagrant is None:
        sys.exit("benchmarks.vagrant: there is no vagrant on this host")
    if why := libvirt.answers():
        sys.exit(f"benchmarks.vagrant: libvirt does not answer; tests/host/start-libvirt?\n{why}")
    shim = place / "bin" / "vagrant"
    shim.parent.mkdir()
    shim.write_text(COUNTING.replace("VAGRANT", vagrant))
    shim.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "CALLS": str(place / "calls"),
        "XDG_STATE_HOME": str(place / "state"),
        "VAGRANT_HOME": str(place / "vagrant"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
    }


def _calls(environment: Mapping[str, str]) -> int:
    """How many there were since the last time that this was asked."""
    place = Path(environment["CALLS"])
    count = len(place.read_text().splitlines()) if place.exists() else 0
    place.unlink(missing_ok=True)
    return count


def _ours(project: Path, environment: Mapping[str, str]) -> float:
    argv = [*BUILD, "up", "debian_bookworm_libvirt", "-qq"]
    return _timed([argv], project, {**environment, "PYTHONPATH": str(ROOT)})


def _plain(folder: Path, environment: Mapping[str, str]) -> float:
    copy = "vagrant ssh-config >config && scp -q -F config default:/tmp/out.txt ."
    end = ["vagrant", "destroy", "-f"]
    try:
        return _timed([["vagrant", "up"], ["sh", "-c", copy], end], folder, environment)
    except SystemExit:
        subprocess.run(end, cwd=folder, env=environment, capture_output=True, check=False)
        raise


def _timed(steps: list[list[str]], folder: Path, environment: Mapping[str, str]) -> float:
    started = time.monotonic()
    for argv in steps:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"{argv} ended with {done.returncode}:\n{done.stdout.decode()[-3000:]}")
    return time.monotonic() - started


if __name__ == "__main__":
    main()
