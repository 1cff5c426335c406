"""The embedded default provider: one QEMU process for each machine, no daemon, no root.

A machine's folder (in the state folder) holds its disk, its seed and its keys; QEMU runs in it.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from build_orchestrator import cache
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import DeadlineExceeded, EnvironmentFailure
from build_orchestrator.machine import processes
from build_orchestrator.machine.contract import Abilities, MachineRequest, Notify, OnLine, silent
from build_orchestrator.machine.qemu import process, snapshot
from build_orchestrator.machine.qemu.accelerator import choose, known_verdict
from build_orchestrator.machine.qemu.identity import (
    HOST_KEY,
    USER_KEY,
    Keys,
    host_name_of,
    identity_script,
    make_keys,
    write_seed,
)
from build_orchestrator.machine.qemu.launch import Launch
from build_orchestrator.machine.qemu.launch import command as command_line
from build_orchestrator.model import Identity
from build_orchestrator.transport.ssh import Ssh

KILL_S = 30.0
NAME = re.compile(r"bo-(?P<run_uuid>[0-9a-f]{32})-(?P<target>.+)-(?P<attempt>\d+)")
# What a saved first start must have behind it: all units settled, all of it on the disk.
SETTLE = b"systemctl is-system-running --wait >/dev/null 2>&1 || true; sync\n"

Identified = Callable[[Identity], None]


class QemuMachine:
    """One QEMU process and the ssh connection into it."""

    def __init__(
        self,
        identity: Identity,
        ssh: Ssh,
        *,
        start: str,
        running: process.Running | None = None,
    ) -> None:
        self.identity = identity
        self.start = start
        self.host_key = "image"  # We put it into what the machine started from.
        self._ssh = ssh
        self._running = running

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        ssh = self._connected(deadline, cancel)
        return ssh.run(script, deadline=deadline, cancel=cancel, on_line=on_line)

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        ssh = self._connected(deadline, cancel)
        return ssh.push(source, target, deadline=deadline, cancel=cancel)

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        ssh = self._connected(deadline, cancel)
        return ssh.pull(source, target, deadline=deadline, cancel=cancel)

    def _connected(self, deadline: Deadline, cancel: Cancel) -> Ssh:
        """The connection; an adopted machine gets one when it is first needed."""
        if self._running is None and not self._ssh.check():
            self._ssh.wait(deadline, cancel, self.alive)
        return self._ssh

    def alive(self) -> bool:
        if self._running is not None:
            return self._running.child.poll() is None
        return process.exists(self.identity.name)

    def release(self) -> None:
        self._ssh.close()

    def destroy(self, *, deadline: Deadline) -> None:
        process.kill(self.identity.name, deadline=deadline)
        if self._running is not None:
            self._running.child.wait()  # Its processes are dead; this only reaps them.
            self._running.qmp.close()
        self._ssh.close()
        processes.remove_folder(Path(self.identity.folder), self.identity.name)


class QemuProvider:
    """Boots machines on this host."""

    name = "qemu"
    abilities = Abilities(warm_start=True)

    def __init__(self, notify: Notify = silent) -> None:
        """``notify`` hears what takes time and is not part of any one build."""
        self._notify = notify

    def rendered(self, request: MachineRequest) -> Mapping[str, str]:
        plan = _launch_of(request, known_verdict() or "tcg")
        line = shlex.join(command_line(plan))
        return {"machine.sh": f"# QEMU runs like this, in the machine's folder.\n{line}\n"}

    def boot(
        self,
        request: MachineRequest,
        *,
        deadline: Deadline,
        cancel: Cancel,
        identified: Identified,
    ) -> QemuMachine:
        boot: _Boot | None = None
        try:
            accelerator = choose(request.image.kernel, cancel=cancel)
            boot = _Boot(request, accelerator, deadline, cancel, identified)
            return boot.cold() if request.cold else self._warm(boot)
        except BaseException:
            if boot is not None:
                boot.abandon()
            processes.remove_folder(Path(request.identity.folder), request.identity.name)
            raise

    def adopt(self, identity: Identity) -> QemuMachine:
        folder = Path(identity.folder)
        ssh = Ssh(
            folder,
            host="127.0.0.1",
            port=int(identity.details.get("port", "0")),
            user="root",
            identity_file=folder / USER_KEY,
        )
        return QemuMachine(identity, ssh, start="unknown")

    def leftovers(self) -> list[Identity]:
        found: dict[str, Identity] = {}
        for pid in processes.find(lambda pid: bool(process.name_of(pid))):
            name = process.name_of(pid)
            if match := NAME.fullmatch(name):
                found[name] = Identity(
                    provider=self.name,
                    name=name,
                    run_uuid=match["run_uuid"],
                    target=match["target"],
                    attempt=int(match["attempt"]),
                    folder=processes.folder_of(pid, name),
                    details={"pid": str(pid)},
                )
        return list(found.values())

    def _warm(self, boot: _Boot) -> QemuMachine:
        key = snapshot.key_of(boot.request.image, boot.request.size, boot.accelerator)
        if not cache.is_cached(snapshot.KIND, key):
            self._notify(
                f"{boot.request.identity.target}: first start of this image on this host; "
                "it is saved, and later starts take a few seconds"
            )
        saved = snapshot.snapshot_of(
            key,
            boot.request.image.disk,
            boot.save_first_start,
            deadline=boot.deadline,
            cancel=boot.cancel,
        )
        try:
            return boot.restore(saved)
        except DeadlineExceeded:  # A busy host, not the snapshot's fault.
            raise
        except EnvironmentFailure:
            # Whatever is wrong with it, the next attempt must not meet it again.
            cache.drop(snapshot.KIND, key)
            raise


class _Boot:
    """One boot of one machine: everything that its three ways share."""

    def __init__(
        self,
        request: MachineRequest,
        accelerator: str,
        deadline: Deadline,
        cancel: Cancel,
        identified: Identified,
    ) -> None:
        self.request = request
        self.accelerator = accelerator
        self.deadline = deadline
        self.cancel = cancel
        self._identified = identified
        self._folder = Path(request.identity.folder)
        self._machine: QemuMachine | None = None

    def abandon(self) -> None:
        """Leave nothing of what this boot has started."""
        if self._machine is not None:
            self._machine.destroy(deadline=Deadline("destroy", KILL_S))

    def cold(self) -> QemuMachine:
        """Start from power-on; the machine reads its identity from the seed disk."""
        keys = make_keys(self._folder, deadline=self.deadline)
        host_name = host_name_of(self.request.identity.name)
        write_seed(self._folder / "seed", keys, host_name=host_name)
        size_mib = self.request.size.disk_mib
        self._overlay(self.request.image.disk, size_mib)
        machine = self._launch("cold")
        self._connect(machine, keys.host_public)
        return machine

    def save_first_start(self, place: Path) -> None:
        """Start from power-on with an identity that no build will have, save it, and kill it."""
        machine = self.cold()
        running = machine._running
        assert running is not None
        machine.run(SETTLE, deadline=self.deadline, cancel=self.cancel)
        machine._ssh.close()
        running.qmp.save(deadline=self.deadline, cancel=self.cancel)
        process.kill(self.request.identity.name, deadline=Deadline("destroy", KILL_S))
        running.child.wait()
        running.qmp.close()
        for name in ("overlay.qcow2", "state", USER_KEY, f"{HOST_KEY}.pub"):
            shutil.move(self._folder / name, place / name)
        shutil.rmtree(self._folder)
        self._folder.mkdir(mode=0o700)

    def restore(self, saved: snapshot.Snapshot) -> QemuMachine:
        """Start from saved RAM, connect with the snapshot's own key, and change the identity."""
        (self._folder / "seed").mkdir(mode=0o700)
        shutil.copy(saved.user_key, self._folder / USER_KEY)
        self._overlay(str(saved.disk), 0)
        machine = self._launch("warm", incoming=saved.state)
        keys = make_keys(self._folder, prefix="next_", deadline=self.deadline)
        running = machine._running
        assert running is not None
        running.qmp.wait_for_status("running", deadline=self.deadline, cancel=self.cancel)
        # What was saved listened already.
        self._connect(machine, saved.host_public, listening=True)
        self._change_identity(machine, keys)
        return machine

    def _change_identity(self, machine: QemuMachine, keys: Keys) -> None:
        script = identity_script(keys, host_name=host_name_of(self.request.identity.name))
        status, said = machine._ssh.run_first(
            script.encode(), deadline=self.deadline, cancel=self.cancel
        )
        if status != 0:
            raise EnvironmentFailure(
                "the restored machine did not take up its identity", details=said[-500:]
            )
        machine._ssh.pin(keys.host_public)
        keys.user_private.replace(self._folder / USER_KEY)

    def _overlay(self, backing: str, size_mib: int) -> None:
        process.make_overlay(
            self._folder, backing=backing, size_mib=size_mib, deadline=self.deadline
        )

    def _launch(self, start: str, incoming: Path | None = None) -> QemuMachine:
        request = self.request
        plan = _launch_of(request, self.accelerator)
        running = process.start(plan, self._folder, incoming=incoming, deadline=self.deadline)
        details = {"pid": str(running.child.pid), "port": str(running.port)}
        identity = dataclasses.replace(request.identity, details=details)
        ssh = Ssh(
            self._folder,
            host="127.0.0.1",
            port=running.port,
            user="root",
            identity_file=self._folder / USER_KEY,
            options=request.distro.ssh_options,
        )
        self._machine = QemuMachine(identity, ssh, start=start, running=running)
        self._identified(identity)
        return self._machine

    def _connect(self, machine: QemuMachine, host_public: str, *, listening: bool = False) -> None:
        machine._ssh.pin(host_public)
        machine._ssh.write_configuration()
        machine._ssh.wait(self.deadline, self.cancel, machine.alive, listening=listening)


def _launch_of(request: MachineRequest, accelerator: str) -> Launch:
    return Launch(
        name=request.identity.name,
        image=request.image,
        size=request.size,
        accelerator=accelerator,
        limit_s=request.limit_s,
        console=request.console,
    )
