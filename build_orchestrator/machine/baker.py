"""Machines that Packer runs while it bakes an image: found by what their processes carry.

No build boots one. A bake works in a folder called like its machine, in which Packer, its plugins
and its QEMU run, and each of them carries the machine's name in its environment: so a sweep ends
all of it, whoever was killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import NoReturn

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import MachineLost
from build_orchestrator.machine import processes
from build_orchestrator.machine.contract import Abilities, MachineRequest, Notify, OnLine, silent
from build_orchestrator.model import Identity

MARK = "BUILD_BAKE"
"""In the environment of every process of a bake: the name of its machine."""

SUFFIX = "-bake"
"""What the name of such a machine has after its target's."""

NAME = re.compile(r"bo-(?P<run_uuid>[0-9a-f]{32})-(?P<target>.+)-bake-(?P<attempt>\d+)")
SCRATCH = "scratch"
"""A link in the machine's folder to one with a shorter path: names of sockets are short."""

TIDY_S = 45.0
"""How long a Packer whose machine is elsewhere may take to end it."""


class PackerMachine:
    """What is left of a bake."""

    start = "cold"
    host_key = "image"

    def __init__(self, identity: Identity) -> None:
        self.identity = identity

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        del script, deadline, cancel, on_line
        _is_packers()

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        del source, target, deadline, cancel
        _is_packers()

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        del source, target, deadline, cancel
        _is_packers()

    def alive(self) -> bool:
        return any(processes.find(lambda pid: _name_of(pid) == self.identity.name))

    def release(self) -> None:
        """Nothing of ours leads into it."""

    def destroy(self, *, deadline: Deadline) -> None:
        name, folder = self.identity.name, Path(self.identity.folder)
        if self.identity.target.endswith("_aws"):
            self._ask_to_end(deadline)
        processes.kill(lambda pid: _name_of(pid) == name, deadline=deadline)
        with contextlib.suppress(OSError):
            shutil.rmtree((folder / SCRATCH).readlink(), ignore_errors=True)
        if "region" in self.identity.details:
            from build_orchestrator.machine.ec2 import Ec2Provider

            # A Packer that was killed has ended nothing.
            Ec2Provider().adopt(self.identity).destroy(deadline=deadline)
        processes.remove_folder(folder, name)

    def _ask_to_end(self, deadline: Deadline) -> None:
        """Let Packer end its machine itself: it knows of more than the machine."""
        for pid in processes.find(lambda pid: _name_of(pid) == self.identity.name):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGINT)
        end = time.monotonic() + min(TIDY_S, deadline.remaining_s / 2)
        while self.alive() and time.monotonic() < end:
            time.sleep(0.2)


class PackerProvider:
    """Knows the machines of bakes, and boots none."""

    name = "packer"
    abilities = Abilities()

    def __init__(self, notify: Notify = silent) -> None:
        del notify

    def rendered(self, request: MachineRequest) -> Mapping[str, str]:
        del request
        return {}

    def boot(
        self,
        request: MachineRequest,
        *,
        deadline: Deadline,
        cancel: Cancel,
        identified: Callable[[Identity], None],
    ) -> PackerMachine:
        del request, deadline, cancel, identified
        _is_packers()

    def adopt(self, identity: Identity) -> PackerMachine:
        return PackerMachine(identity)

    def living(self, identity: Identity) -> str:
        """As AWS shows it, of a bake there; of others no other host knows anything."""
        if "region" not in identity.details:
            return ""
        from build_orchestrator.machine.ec2 import Ec2Provider

        return Ec2Provider().living(identity)

    def leftovers(self) -> list[Identity]:
        found: dict[str, Identity] = {}
        for pid in processes.find(lambda pid: bool(_name_of(pid))):
            name = _name_of(pid)
            if match := NAME.fullmatch(name):
                found[name] = Identity(
                    provider=self.name,
                    name=name,
                    run_uuid=match["run_uuid"],
                    target=match["target"],
                    attempt=int(match["attempt"]),
                    folder=processes.folder_of(pid, name),
                )
        return list(found.values())


def _is_packers() -> NoReturn:
    raise MachineLost("this machine is Packer's: nobody else boots it or talks to it")


def _name_of(pid: int) -> str:
    """The machine of the bake that a process belongs to: it carries the name, and works there."""
    for line in processes.environment(pid):
        if line.startswith(f"{MARK}="):
            name = line.removeprefix(f"{MARK}=")
            return name if processes.folder_of(pid, name) else ""
    return ""
