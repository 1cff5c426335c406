"""What `build up` on libvirt costs over plain Vagrant doing the same.

Both boot a machine through Vagrant, run a script that writes one file, bring it out and destroy
the machine, in turns, from the same box, with the same settings. Plain Vagrant does it as a person
would: `vagrant up` with a provisioner, `vagrant ssh-config` and `scp`, `vagrant destroy -f`. A
first build of ours is not counted: it makes the box.

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

from benchmarks.measuring import host, load, middle

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
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="pairs that are counted")
    parser.add_argument("--json", action="store_true", help="every single number, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        row = _compare(Path(folder), options.runs)
    if options.json:
        print(json.dumps({"host": host(), **row}, indent=2))
        return
    print("plain s  calls  ours s  calls  ratio  load")
    print(
        f"{middle(row['plain_s']):7.1f}  {row['plain_calls']:5}  {middle(row['ours_s']):6.1f}"
        f"  {row['ours_calls']:5}  {middle(row['ratios']):5.2f}  {middle(row['load']):4.1f}"
    )


def _compare(place: Path, runs: int) -> dict[str, Any]:
    environment = _environment(place)
    project, plain = place / "project", place / "plain"
    for folder in (project, plain):
        folder.mkdir()
        (folder / "make.sh").write_text(SCRIPT)
    (project / "targets.yaml").write_text(TARGETS)
    _ours(project, environment)
    from build_orchestrator.machine.vagrant.driver import driver_of

    (plain / "Vagrantfile").write_text(PLAIN.replace("DRIVER", driver_of({})))
    ours_s, plain_s, loads = [], [], []
    ours_calls = plain_calls = 0
    for _ in range(runs):
        loads.append(load())
        _calls(environment)
        plain_s.append(_plain(plain, environment))
        plain_calls = _calls(environment)
        ours_s.append(_ours(project, environment))
        ours_calls = _calls(environment)
    return {
        "ours_s": ours_s,
        "plain_s": plain_s,
        "ratios": [ours / bare for ours, bare in zip(ours_s, plain_s, strict=True)],
        "ours_calls": ours_calls,
        "plain_calls": plain_calls,
        "load": loads,
    }


def _environment(place: Path) -> dict[str, str]:
    """One in which every call of Vagrant's is counted."""
    vagrant = shutil.which("vagrant")
    if vagrant is None:
        sys.exit("benchmarks.vagrant: there is no vagrant on this host")
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
    argv = [sys.executable, "-m", "build_orchestrator", "up", "debian_bookworm_libvirt", "-qq"]
    here = {**environment, "PYTHONPATH": str(Path(__file__).parents[1])}
    return _timed([argv], project, here)


def _plain(folder: Path, environment: Mapping[str, str]) -> float:
    copy = "vagrant ssh-config >config && scp -q -F config default:/tmp/out.txt ."
    steps = [["vagrant", "up"], ["sh", "-c", copy], ["vagrant", "destroy", "-f"]]
    return _timed(steps, folder, environment)


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
