"""Machines that are a folder and a sleeping process of this host: fast, harmless, made to fail.

Shipped with the product: every test of a story that needs no real machine runs on it, and
``provider: fake`` in a targets.yaml tries out recipes and CI jobs without booting anything.

Options of a target (all optional):
    fail_at: boot, transfer, provision, collect or destroy: the machine is lost at that stage.
    hang_at: the same names: nothing happens there until somebody's deadline or signal.
    refuse_to_die: "true": destroy cannot prove it dead, and sweep can.
    boot_s: seconds that a boot takes.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from build_orchestrator import command
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import MachineLeaked, MachineLost
from build_orchestrator.machine import processes
from build_orchestrator.machine.contract import Abilities, MachineRequest, Notify, OnLine, silent
from build_orchestrator.model import Identity
from build_orchestrator.transport.local import LocalShell

MARK = "MACHINE_NAME"
"""In the environment of the machine's process and of every script that runs "inside"."""

NAME = re.compile(rf"{MARK}=(?P<name>bo-(?P<run_uuid>[0-9a-f]{{32}})-(?P<target>.+)-(?P<n>\d+))")


class FakeMachine:
    """A folder for its disk, a process for its life."""

    host_key = "image"
    start = "cold"

    def __init__(
        self,
        identity: Identity,
        options: Mapping[str, str],
        child: command.Child | None = None,
    ) -> None:
        self.identity = identity
        self._options = options
        self._child = child

    @property
    def _shell(self) -> LocalShell:
        # Made when it is used: it makes the folder, which a sweep of the dead must not.
        return LocalShell(Path(self.identity.folder) / "root", env={MARK: self.identity.name})

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        self._misbehave("provision", deadline, cancel)
        status = self._shell.run(script, deadline=deadline, cancel=cancel, on_line=on_line)
        if not self.alive():
            raise MachineLost("the fake machine died while the script ran")
        return status

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        self._misbehave("transfer", deadline, cancel)
        return self._shell.push(source, target, deadline=deadline, cancel=cancel)

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        self._misbehave("collect", deadline, cancel)
        return self._shell.pull(source, target, deadline=deadline, cancel=cancel)

    def alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return any(processes.find(_carries(self.identity.name)))

    def destroy(self, *, deadline: Deadline) -> None:
        if self._options.get("refuse_to_die") == "true":
            raise MachineLeaked(f"{self.identity.name} refuses to die, as it was told to")
        self._misbehave("destroy", deadline, NEVER)
        if self._child is not None:
            # By its group: a process that is only just being started carries no name yet.
            command.kill_group(self._child)
        processes.kill(_carries(self.identity.name), deadline=deadline)
        processes.remove_folder(Path(self.identity.folder), self.identity.name)

    def release(self) -> None:
        pass

    def _misbehave(self, stage: str, deadline: Deadline, cancel: Cancel) -> None:
        misbehave(self._options, stage, deadline, cancel)


class FakeProvider:
    """Supplies fake machines."""

    name = "fake"
    abilities = Abilities(console=False)

    def __init__(self, notify: Notify = silent) -> None:
        """``notify`` is part of every provider; nothing here takes time."""
        self._notify = notify

    def rendered(self, request: MachineRequest) -> Mapping[str, str]:
        return {"machine.sh": f"# {request.identity.name}: a folder that plays a machine\n"}

    def boot(
        self,
        request: MachineRequest,
        *,
        deadline: Deadline,
        cancel: Cancel,
        identified: Callable[[Identity], None],
    ) -> FakeMachine:
        folder = Path(request.identity.folder)
        name = request.identity.name
        child: command.Child | None = None
        try:
            (folder / "root").mkdir(mode=0o700)
            os.mkfifo(folder / "alive")
            child = command.spawn(
                # Nobody ever writes into the pipe, so `cat` waits until the limit.
                ["timeout", "--signal=KILL", f"{request.limit_s:.3f}", "cat", "alive"],
                cwd=folder,
                env={**os.environ, MARK: name},
            )
            identity = dataclasses.replace(request.identity, details={"pid": str(child.pid)})
            identified(identity)
            boot_s = float(request.options.get("boot_s", "0"))
            cancel.sleep(min(boot_s, deadline.remaining_s))
            deadline.check()
            misbehave(request.options, "boot", deadline, cancel)
            while child.poll() is None and not processes.environment(child.pid):
                cancel.sleep(0.001)  # What is only just being started carries no name yet.
            with request.console.open("a") as console:
                console.write(f"{name}: booted\n")
            return FakeMachine(identity, request.options, child)
        except BaseException:
            FakeMachine(request.identity, {}, child).destroy(deadline=Deadline("destroy", 10))
            raise

    def adopt(self, identity: Identity) -> FakeMachine:
        return FakeMachine(identity, {})

    def leftovers(self) -> list[Identity]:
        found: dict[str, Identity] = {}
        for pid in processes.find(lambda _: True):
            for line in processes.environment(pid):
                if (match := NAME.fullmatch(line)) is None:
                    continue
                folder = processes.folder_of(pid, match["name"])
                if not folder:  # It carries the name, and is no machine.
                    continue
                found[match["name"]] = Identity(
                    provider=self.name,
                    name=match["name"],
                    run_uuid=match["run_uuid"],
                    target=match["target"],
                    attempt=int(match["n"]),
                    folder=folder,
                )
        return list(found.values())


def misbehave(options: Mapping[str, str], stage: str, deadline: Deadline, cancel: Cancel) -> None:
    """Fail or hang where the options say so."""
    if options.get("fail_at") == stage:
        raise MachineLost(f"the fake machine was lost at {stage}, as it was told to")
    if options.get("hang_at") == stage:
        cancel.sleep(deadline.remaining_s)
        raise deadline.exceeded()


def _carries(name: str) -> Callable[[int], bool]:
    line = f"{MARK}={name}"
    return lambda pid: line in processes.environment(pid)
