"""Machines that Vagrant boots and that we talk to: VirtualBox, libvirt, and whatever else it has.

A machine's folder (in the state folder) is its own VAGRANT_CWD and holds its own ``.vagrant`` with
its key. Vagrant is called twice for a build, to boot and to destroy; all else is our own ssh.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from build_orchestrator import command
from build_orchestrator.configuration.files import text_of
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    EnvironmentFailure,
    MachineLeaked,
    MachineLost,
    OrchestratorError,
)
from build_orchestrator.locks import locked, state_home
from build_orchestrator.machine import processes
from build_orchestrator.machine.contract import Abilities, MachineRequest, Notify, OnLine
from build_orchestrator.machine.vagrant import boxes, ports, windows
from build_orchestrator.machine.vagrant.adapter import MARK, Caller
from build_orchestrator.machine.vagrant.connection import connection, connection_of, facts_of
from build_orchestrator.machine.vagrant.driver import driver_of, probe
from build_orchestrator.machine.vagrant.ready import TOOLS
from build_orchestrator.machine.vagrant.tools import Tools
from build_orchestrator.machine.vagrant.watch import watched
from build_orchestrator.model import Identity
from build_orchestrator.render.vagrantfile import TEMPLATE, Described, single, ssh_args
from build_orchestrator.transport.ssh import Ssh
from build_orchestrator.transport.windows import WindowsSsh

DESTROY_S = 60.0
TOOLS_S = 15.0
"""What is left for the provider's own tools, however long Vagrant takes."""
TRIES = 5
PAUSE_S = 0.5
LEAST_LIMIT_S = 15.0
WEEK_S = 7 * 24 * 3600
NAME = re.compile(r"bo-(?P<run_uuid>[0-9a-f]{32})-(?P<target>.+)-(?P<attempt>\d+)")

# What Vagrant starts and what works for one machine alone. VirtualBox's and libvirt's services
# may inherit our mark from it, and serve everybody.
PROGRAMS = re.compile(r"ruby[\w.-]*|vagrant|VBoxManage|bsdtar|qemu-img|virsh|ssh|rsync")

# Vagrant takes away the one known key that it came in with; a box may hold others.
FIRST = """\
exec >/dev/null 2>&1
home=$(getent passwd {user} | cut -d: -f6)
printf '%s\\n' {key} >"$home/.ssh/authorized_keys" || exit 1
setsid sh -c 'sleep {seconds}; poweroff -f || halt -f -p' </dev/null &
"""

Identified = Callable[[Identity], None]


class VagrantMachine:
    """A machine that Vagrant made, and the ssh connection into it."""

    start = "cold"
    host_key = "first-use"

    def __init__(self, identity: Identity, tools: Tools | None, ssh: Ssh | None) -> None:
        self.identity = identity
        self._tools = tools
        self._ssh = ssh

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        with self._connected(deadline, cancel) as ssh:
            return ssh.run(script, deadline=deadline, cancel=cancel, on_line=on_line)

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        with self._connected(deadline, cancel) as ssh:
            return ssh.push(source, target, deadline=deadline, cancel=cancel)

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        with self._connected(deadline, cancel) as ssh:
            return ssh.pull(source, target, deadline=deadline, cancel=cancel)

    @contextlib.contextmanager
    def _connected(self, deadline: Deadline, cancel: Cancel) -> Iterator[Ssh]:
        """The connection, which ends with the machine: a network would let us wait for ever."""
        if self._ssh is None:
            raise MachineLost("the machine was never reached")
        if not self._ssh.check():
            self._ssh.wait(deadline, cancel, self.alive, listening=True)
        if self._tools is None:  # Vagrant takes seconds to answer: ssh's own probes must do.
            yield self._ssh
            return
        with watched(self.alive, self._ssh.close):
            yield self._ssh

    def alive(self) -> bool:
        name = self.identity.name
        if self._tools is not None:
            return self._tools.running(name)
        folder = Path(self.identity.folder)
        if not (folder / "Vagrantfile").exists():
            return False
        deadline = Deadline("status", DESTROY_S, "vagrant status")
        return Caller(folder, name, deadline=deadline).state() == "running"

    def release(self) -> None:
        if self._ssh is not None:
            self._ssh.close()

    def destroy(self, *, deadline: Deadline) -> None:
        name, folder = self.identity.name, Path(self.identity.folder)
        self.release()
        processes.kill(lambda pid: _works_on(pid, name), deadline=deadline)
        ids = [path.read_text().strip() for path in self._id_files(folder)]
        failed = self._destroy_by_vagrant(folder, deadline)
        if self._tools is not None:
            # That it shows neither name nor id proves it, whatever Vagrant has said.
            failed = self._remove(self._tools, (name, *filter(None, ids)), deadline)
        if failed:
            raise MachineLeaked(
                f"{name} could not be proven dead",
                details=failed,
                resolution="`build sweep` tries again; `build doctor` looks at the provider.",
            )
        processes.remove_folder(folder, name)

    def _remove(self, tools: Tools, names: Sequence[str], deadline: Deadline) -> str:
        """Remove what the provider shows, until it shows nothing; return why that failed.

        A Vagrant that was killed may have asked for something that comes a moment later.
        """
        try:
            for _ in range(TRIES):
                for each in names:
                    tools.remove(each, deadline=deadline)
                if not any(tools.exists(each) for each in names):
                    return ""
                NEVER.sleep(PAUSE_S)
        except OrchestratorError as error:
            return f"{error.brief}\n{error.details}"
        return f"{self.identity.provider} still shows it"

    def _id_files(self, folder: Path) -> Iterator[Path]:
        """Where Vagrant has written what its provider calls the machine."""
        return folder.glob(f".vagrant/machines/{self.identity.name}/*/id")

    def _destroy_by_vagrant(self, folder: Path, deadline: Deadline) -> str:
        """Let Vagrant destroy what it knows of; return why it could not."""
        name = self.identity.name
        left_s = deadline.remaining_s - TOOLS_S
        if not any(self._id_files(folder)):
            return ""
        if left_s <= 0 and self._tools is not None:
            return "there was no time to ask Vagrant"
        limit = Deadline("destroy", left_s if self._tools else deadline.remaining_s)
        try:
            Caller(folder, name, deadline=limit).destroy()
        except OrchestratorError as error:
            return f"{error.brief}\n{error.details}"
        return ""


class VagrantProvider:
    """A provider of Vagrant's."""

    abilities = Abilities(console=False, windows=True)

    def __init__(self, name: str, tools: Tools | None, notify: Notify) -> None:
        """``tools``: the provider's own; None where only Vagrant knows how to talk to it."""
        self.name = name
        self._tools = tools
        self._notify = notify

    def rendered(self, request: MachineRequest) -> Mapping[str, str]:
        return {"Vagrantfile": self._vagrantfile(request, 0)}

    def boot(
        self,
        request: MachineRequest,
        *,
        deadline: Deadline,
        cancel: Cancel,
        identified: Identified,
    ) -> VagrantMachine:
        started = time.monotonic()
        machine = VagrantMachine(request.identity, self._tools, None)
        try:
            self._up(request, deadline, cancel, identified)
            folder = Path(request.identity.folder)
            details = facts_of(folder, windows=request.distro.windows)
            identity = dataclasses.replace(request.identity, details=details)
            machine = VagrantMachine(
                identity, self._tools, connection(folder, details, request.distro.ssh_options)
            )
            identified(identity)
            left_s = request.limit_s - (time.monotonic() - started)
            _connect(machine, max(left_s, LEAST_LIMIT_S), deadline, cancel)
            return machine
        except BaseException:
            machine.destroy(deadline=Deadline("destroy", cancel.teardown_s(DESTROY_S)))
            raise

    def adopt(self, identity: Identity) -> VagrantMachine:
        return VagrantMachine(identity, self._tools, connection_of(identity))

    def leftovers(self) -> list[Identity]:
        found = dict(self._shown())
        for pid in processes.find(lambda pid: bool(_name_of(pid))):
            name = _name_of(pid)
            match = NAME.fullmatch(name)
            if match and match["target"].endswith(f"_{self.name}") and not found.get(name):
                found[name] = processes.folder_of(pid, name)
        return [self._identity(name, folder) for name, folder in found.items()]

    def _shown(self) -> Mapping[str, str]:
        """What the provider's own tool shows; nothing where this host does without it."""
        if self._tools is None or shutil.which(TOOLS[self.name]) is None:
            return {}
        try:
            return self._tools.shown()
        except OrchestratorError as error:
            self._notify(f"{self.name} does not answer, so nothing of it is found: {error.brief}")
            return {}

    def _identity(self, name: str, folder: str) -> Identity:
        match = NAME.fullmatch(name)
        assert match is not None, "what is shown was chosen by its name"
        return Identity(
            provider=self.name,
            name=name,
            run_uuid=match["run_uuid"],
            target=match["target"],
            attempt=int(match["attempt"]),
            folder=folder,
        )

    # --- booting ----------------------------------------------------------------------------

    def _up(
        self, request: MachineRequest, deadline: Deadline, cancel: Cancel, identified: Identified
    ) -> None:
        name, folder = request.identity.name, Path(request.identity.folder)
        if self.name == "libvirt":
            probe(request.options, cancel=cancel)
        if self._tools is not None:
            box = boxes.place_of(request.image.disk, request.image.version, self.name)
            if box is None:
                raise EnvironmentFailure(
                    f"the box {request.image.source} is not there any more",
                    resolution="Try again: it is fetched anew.",
                )
            version = request.image.version
            self._tools.prepare(box, request.image.disk, version, deadline=deadline, cancel=cancel)
        if request.distro.windows:
            windows.prepare(folder, request.limit_s, deadline, cancel)
        known = False
        with (
            request.console.open("a", errors="replace") as console,
            ports.port_of(self.name, deadline=deadline, cancel=cancel) as port,
            contextlib.ExitStack() as turn,
        ):
            (folder / "Vagrantfile").write_text(self._vagrantfile(request, port))
            if self.name != "libvirt":  # Imports that run at once get in each other's way.
                lock = state_home() / "locks" / self.name
                turn.enter_context(locked(lock, deadline=deadline, cancel=cancel))

            def hear(line: str) -> None:
                nonlocal known
                console.write(f"{line}\n")
                console.flush()
                if not known:  # Its process exists, and carries the machine's name.
                    known = True
                    identified(request.identity)
                if any(folder.glob(f".vagrant/machines/{name}/*/id")):
                    turn.close()  # Imported: the next one's turn, while this one boots.

            Caller(folder, name, deadline=deadline, cancel=cancel, on_line=hear).up(self.name)

    def _vagrantfile(self, request: MachineRequest, port: int) -> str:
        distro = request.distro
        described = Described(
            name=request.identity.name,
            target=request.identity.target,
            provider=self.name,
            box=request.image.disk,
            version=request.image.version,
            windows=distro.windows,
            communicator=request.communicator,
            ssh_args=ssh_args(distro),
            size=request.size,
            boot_s=WEEK_S,  # The deadline is ours to keep.
            folder=request.identity.folder,
            driver=driver_of(request.options) if self.name == "libvirt" else "",
            ssh_port=port,
        )
        return single(text_of(request.project, TEMPLATE), described)


def _connect(machine: VagrantMachine, limit_s: float, deadline: Deadline, cancel: Cancel) -> None:
    """Log in with the machine's own key, close it to all others, arm the limit without us."""
    ssh = machine._ssh
    assert ssh is not None
    ssh.pin((ssh.folder / "host_keys").read_text())
    ssh.write_configuration()
    ssh.wait(deadline, cancel, machine.alive, listening=True)
    if isinstance(ssh, WindowsSsh):  # The key and the limit came with its batch file.
        windows.close_to_others(ssh, deadline, cancel)
        return
    asked = ["ssh-keygen", "-y", "-f", str(ssh.identity_file)]
    key = command.run(asked, deadline=deadline, cancel=cancel).check("the machine's key is no key")
    script = FIRST.format(
        user=shlex.quote(ssh.user),
        key=shlex.quote(key.stdout.decode().strip()),
        seconds=int(limit_s),
    )
    status, said = ssh.run_first(script.encode(), deadline=deadline, cancel=cancel)
    if status != 0:
        raise EnvironmentFailure(
            "the machine did not take its key and its limit",
            details=f"status {status}: {said[-500:]}",
        )


def _name_of(pid: int) -> str:
    """The machine that a process of Vagrant's works on."""
    for line in processes.environment(pid):
        if line.startswith(f"{MARK}="):
            return line.removeprefix(f"{MARK}=") if _is_vagrants(pid) else ""
    return ""


def _works_on(pid: int, name: str) -> bool:
    return _name_of(pid) == name and pid != os.getpid()


def _is_vagrants(pid: int) -> bool:
    try:
        return bool(PROGRAMS.fullmatch((processes.PROC / str(pid) / "comm").read_text().strip()))
    except OSError:
        return False
