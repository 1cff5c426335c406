"""Projects on real machines, and the real command line run in them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from build_orchestrator.machine import processes
from build_orchestrator.machine.qemu.launch import name_in

CHECKOUT = Path(__file__).parents[2]
WAIT_S = 240.0

TARGETS = """\
schema: 1
default_provider: qemu
defaults:
  recipe: small
  attempts: {attempts}
  destinations: [dist/]
  size: {{cpus: 1, memory_mib: 1024, disk_mib: 8192}}
  deadlines: {{boot_s: 300, provision_s: {provision_s}, collect_s: 60}}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers: {{qemu: {{image: {image}}}}}
recipes:
  small:
    script: make.sh
    inputs: [make.sh]
    outputs: [{{name: "{{distribution}}-{{release}}.txt"}}]
    pass_host_trust: {trust}
    secrets: {secrets}
"""

TARGET = "debian_bookworm_qemu"
OUTPUT = "Debian-bookworm.txt"


Made = TypeVar("Made", bound="Project")


@dataclass(frozen=True)
class Ended:
    """A `build` that has ended."""

    status: int
    stdout: str
    stderr: str
    row: dict[str, Any]
    """The first row of report.json; empty where no run was made."""


class Project:
    """A small project whose script runs in a real machine, with a state folder of its own."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder = folder
        self.state = state
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(state),
            "PYTHONPATH": str(CHECKOUT),
            "CI": "true",
        }
        folder.mkdir(parents=True, exist_ok=True)

    def write(
        self,
        script: str,
        *,
        attempts: int = 1,
        provision_s: float = 600,
        image: str = "{bootstrap: bookworm}",
        trust: bool = False,
        secrets: str = "[]",
    ) -> None:
        """Give the project its script, which is run by ``sh -eu``."""
        self.folder.joinpath("targets.yaml").write_text(
            TARGETS.format(
                attempts=attempts,
                provision_s=provision_s,
                image=image,
                trust=str(trust).lower(),
                secrets=secrets,
            )
        )
        file = self.folder / "make.sh"
        file.write_text(f"#!/bin/sh\nset -eu\n{script}\n")
        file.chmod(0o755)

    def argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "build_orchestrator", *arguments]

    def build(self, *arguments: str, **environment: str) -> Ended:
        """Run `build` to its end."""
        done = subprocess.run(
            self.argv(*arguments),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=1700,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr, self.row())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `build` and come back at once."""
        return subprocess.Popen(
            self.argv(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def newest(self, file: str) -> Path | None:
        """This file of the newest run that has it. Names of runs tell seconds apart, no more."""
        found = self.folder.glob(f"runs/*/{file}")
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def rows(self) -> list[dict[str, Any]]:
        """Of the newest report; none where there is no report."""
        report = self.newest("report.json")
        rows: list[dict[str, Any]] = json.loads(report.read_text())["results"] if report else []
        return rows

    def row(self) -> dict[str, Any]:
        """The first one."""
        return next(iter(self.rows()), {})

    def run_uuid(self) -> str:
        """Of the newest run."""
        plan = self.newest("plan.json")
        assert plan, "there was no run"
        uuid: str = json.loads(plan.read_text())["run_uuid"]
        return uuid

    def log(self) -> str:
        """What the newest run's log says so far."""
        log = self.newest(f"{TARGET}/log.txt")
        return log.read_text(errors="replace") if log else ""

    def wait_for(self, words: str, child: subprocess.Popen[bytes]) -> None:
        """Wait until the log says these words."""
        until = time.monotonic() + WAIT_S
        while words not in self.log():
            assert child.poll() is None, f"build ended early: {self.log()[-2000:]}"
            assert time.monotonic() < until, f"never said {words!r}: {self.log()[-2000:]}"
            time.sleep(0.05)

    def machines(self) -> list[int]:
        """The pids of every machine whose folder lies in this project's state folder."""
        return [
            pid
            for pid in processes.find(lambda pid: bool(name_in(processes.arguments(pid))))
            if self._is_ours(pid)
        ]

    def _is_ours(self, pid: int) -> bool:
        try:
            return (processes.PROC / str(pid) / "cwd").readlink().is_relative_to(self.state)
        except OSError:
            return False

    def leftovers(self) -> list[str]:
        """Whatever should not be there any more: processes, disks, keys."""
        found = [f"process {pid}" for pid in self.machines()]
        found += [str(path) for path in self.state.glob("build-orchestrator/runs/*/machines/*")]
        return found

    def destroy_all(self) -> None:
        """Never leave a machine behind, whatever a test has done."""
        for pid in self.machines():
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def in_a_state_of_its_own(kind: Callable[[Path, Path], Made], folder: Path) -> Iterator[Made]:
    """A project with a state folder whose path is short, since sockets lie in it; whatever is left
    of its machines is destroyed."""
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as state:
        project = kind(folder, Path(state))
        try:
            yield project
        finally:
            project.destroy_all()
