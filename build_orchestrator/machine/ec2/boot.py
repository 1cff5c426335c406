"""One launch: from the request to a machine that answers, or to nothing at all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from build_orchestrator.command import run
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    Interrupted,
    MachineLeaked,
    MachineLost,
    NoCapacity,
)
from build_orchestrator.machine import processes
from build_orchestrator.machine.contract import MachineRequest, Notify
from build_orchestrator.machine.ec2.api import Api, persist
from build_orchestrator.machine.ec2.errors import NO_CAPACITY, Meaning, meaning_of
from build_orchestrator.machine.ec2.launch import (
    SSH_PORT,
    Seen,
    Shared,
    host_keys,
    is_last_place,
    parameters,
    place_of,
    way_of,
)
from build_orchestrator.machine.ec2.machine import Connection, Ec2Machine
from build_orchestrator.machine.ec2.password import of_administrator
from build_orchestrator.machine.ec2.shared import user_key
from build_orchestrator.machine.ec2.watch import Watch
from build_orchestrator.machine.ec2.windows import certificate
from build_orchestrator.model import Identity
from build_orchestrator.transport.knock import knock
from build_orchestrator.transport.ssh import Ssh
from build_orchestrator.transport.windows import WindowsSsh
from build_orchestrator.transport.winrm import Winrm

DESTROY_S = 60.0
JOURNAL_S = 10.0
"""So old may be what the journal says when AWS is asked for a machine."""
KNOCK_S = 3.0
PAUSE_S = 0.2
CONSOLE_PAUSE_S = 1.0
LONGEST_CONSOLE_PAUSE_S = 15.0
FIRST_USE_AFTER_S = 60.0
"""For so long the console is asked before a key is taken on first use, where that is allowed."""

Identified = Callable[[Identity], None]
Said = TypeVar("Said")


@dataclass(kw_only=True)
class Boot:
    """One launch of one machine."""

    request: MachineRequest
    api: Api
    watch: Watch
    shared: Callable[[Deadline, Cancel], Shared]
    """The run's key pair and group, made where they are missing."""
    deadline: Deadline
    cancel: Cancel
    identified: Identified
    notify: Notify
    outlives: Callable[[], None]
    _machine: Ec2Machine | None = None
    _unanswered: bool = False
    _intended_at: float = 0.0
    _journalled_at: float = 0.0
    """When the journal last said that there may be a machine from then on."""
    _limit_at: float = 0.0

    def go(self) -> Ec2Machine:
        """Return a machine that answers.

        Raises:
            NoCapacity: nothing was started.
            MachineLost: it ended while it started.
            MachineLeaked: nobody knows whether it was started, or it would not end.
            EnvironmentFailure, DeadlineExceeded, Interrupted
        """
        self._journalled_at = time.time()
        try:
            ami = self.request.image.disk
            root = persist(
                lambda: self.api.root_of(ami),
                f"image {ami}",
                deadline=self.deadline,
                cancel=self.cancel,
            )
            shared = self.shared(self.deadline, self.cancel)
            now = self.api.now()
            self._limit_at = now + self.request.limit_s
            place = place_of(self.request)
            launch = parameters(self.request, place, shared, root, now=now)
            machine = self._launch(launch)
            self._answering(machine)
            return machine
        except BaseException as error:
            self._abandon(error)
            raise

    def _abandon(self, error: BaseException) -> None:
        """Leave nothing of what this boot has started.

        Raises:
            MachineLeaked: that cannot be proven.
        """
        if self._machine is None and not self._unanswered:
            processes.remove_folder(Path(self.request.identity.folder), self.request.identity.name)
            return
        machine = self._machine or self._made(self._possible())
        if not isinstance(error, Interrupted):
            machine.save_console()
        try:
            machine.destroy(deadline=Deadline("destroy", self.cancel.teardown_s(DESTROY_S)))
        except MachineLeaked as leaked:
            leaked.details = f"{leaked.details}\nBefore that: {error}".strip()
            raise leaked from error

    def _possible(self) -> Identity:
        """A machine of which nobody knows whether it is: found by its name, if ever."""
        details = {**known_place(self.request), "intended_at": f"{self._intended_at:.3f}"}
        return dataclasses.replace(self.request.identity, details=details)

    # --- the request ----------------------------------------------------------------------------

    def _launch(self, launch: dict[str, Any]) -> Ec2Machine:
        """Send the one request until it is answered: its token makes one machine of all of them."""
        doing = f"launch {place_of(self.request)}"

        def ask() -> str:
            self._journal()
            try:
                answer = self.api.once.run_instances(**launch)
                instance_id = str(answer["Instances"][0]["InstanceId"])
            except Exception as error:
                meaning = meaning_of(error)
                if meaning is Meaning.NO_ANSWER:
                    self._unanswered, self._intended_at = True, time.time()
                elif meaning is Meaning.NO_CAPACITY:  # With a machine there, this is not said:
                    # of an earlier request that AWS still works on, it may be.
                    self._unanswered = self._unanswered and self._may_be_there()
                raise
            self._unanswered = False
            return instance_id

        instance_id = persist(
            ask,
            doing,
            deadline=self.deadline,
            cancel=self.cancel,
            elsewhere=not is_last_place(self.request),
        )
        machine = self._made(self._identity(instance_id))
        self._machine = machine
        self.identified(machine.identity)
        self.watch.follow(machine.identity.name, instance_id, machine.died)
        return machine

    def _journal(self) -> None:
        """Say anew that there may be a machine from now on, where that was said a while ago: what
        AWS is asked for now may be shown as late after it."""
        now = time.time()
        if now - self._journalled_at > JOURNAL_S:
            self._journalled_at = self._intended_at = now
            self.identified(self._possible())

    def _may_be_there(self) -> bool:
        """Whether AWS shows a machine of this name, or does not answer."""
        identity = self.request.identity
        try:
            found = self.api.machines(run=identity.run_uuid)
        except Exception:  # noqa: BLE001 - whoever abandons it asks for longer
            return True
        return any(seen.name == identity.name for seen in found)

    def _identity(self, instance_id: str) -> Identity:
        place = place_of(self.request)
        details = {
            **known_place(self.request),
            "instance": instance_id,
            "instance_type": place.instance_type,
            "market": "spot" if place.spot else "on-demand",
            "launched_at": f"{time.time():.3f}",
        }
        return dataclasses.replace(self.request.identity, details=details)

    def _made(self, identity: Identity) -> Ec2Machine:
        return Ec2Machine(
            identity,
            self.api,
            connection_of(identity, options=self.request.distro.ssh_options),
            watch=self.watch,
            console=self.request.console,
            limit_at=self._limit_at,
            outlives=self.outlives,
        )

    # --- until it answers -----------------------------------------------------------------------

    def _answering(self, machine: Ec2Machine) -> None:
        seen = self._running(machine)
        connection = machine.connection
        connection.host = self._address(seen)
        details = {**machine.identity.details, "address": connection.host, "zone": seen.zone}
        machine.identity = dataclasses.replace(machine.identity, details=details)
        self.identified(machine.identity)
        if isinstance(connection, Winrm):
            self._open_winrm(machine, connection)
        else:
            self._open_ssh(machine, connection)
        self.watch.started(machine.identity.name)

    def _open_ssh(self, machine: Ec2Machine, ssh: Ssh) -> None:
        self._knock(machine, ssh)
        keys, machine.host_key = self._host_keys(machine, ssh)
        ssh.pin(keys)
        ssh.write_configuration()
        ssh.wait(self.deadline, self.cancel, machine.seems_alive, listening=True)

    def _open_winrm(self, machine: Ec2Machine, winrm: Winrm) -> None:
        """What the machine proves itself with, and what we do, both come from AWS alone."""
        what = "AWS to know the certificate of WinRM"
        winrm.pin(self._awaited(machine, lambda: certificate(machine.save_console()), what))
        machine.host_key = "console"
        key = user_key(Path(machine.identity.folder), "rsa")
        doing = "the password of the machine"

        def ask() -> str:
            return persist(
                lambda: of_administrator(self.api, machine.instance_id, key),
                doing,
                deadline=self.deadline,
                cancel=self.cancel,
            )

        winrm.password = self._awaited(machine, ask, f"AWS to know {doing}")
        winrm.wait(self.deadline, self.cancel, machine.seems_alive)

    def _awaited(self, machine: Ec2Machine, ask: Callable[[], Said | None], what: str) -> Said:
        """What AWS says of the machine once the machine has told it."""
        pause_s = CONSOLE_PAUSE_S
        while not (found := ask()):
            machine.check_seems_alive()
            if self.deadline.remaining_s < pause_s:
                if code := self.api.console_refused:
                    what = f"{what}; AWS refuses to show it with {code}"
                raise DeadlineExceeded(self.deadline.stage, self.deadline.limit_s, what)
            self.cancel.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_CONSOLE_PAUSE_S)
        return found

    def _running(self, machine: Ec2Machine) -> Seen:
        """Wait until AWS has started it and given it the address that we want."""

        def ready(seen: Seen) -> bool:
            return not seen.alive or (seen.state == "running" and bool(self._address(seen)))

        seen = self.watch.wait(
            machine.identity.name, ready, deadline=self.deadline, cancel=self.cancel
        )
        if not seen.alive:
            raise self._not_started(seen)
        return seen

    def _address(self, seen: Seen) -> str:
        private = self.request.options.get("address") == "private"
        return seen.private_address if private else seen.public_address

    def _not_started(self, seen: Seen) -> EnvironmentFailure:
        code = seen.reason_code.partition(".")[2]
        if code in NO_CAPACITY:
            return NoCapacity(
                f"launch {place_of(self.request)}: AWS took it back ({code})",
                details=seen.reason,
                elsewhere=not is_last_place(self.request),
            )
        return MachineLost("AWS ended the machine while it started", details=seen.reason)

    def _knock(self, machine: Ec2Machine, ssh: Ssh) -> None:
        def check() -> None:
            self.cancel.check()
            machine.check_seems_alive()
            if self.deadline.passed:
                raise DeadlineExceeded(
                    self.deadline.stage,
                    self.deadline.limit_s,
                    f"ssh on {ssh.host}:{ssh.port} to answer (does launch.allow_from let us in?)",
                )

        knock(
            ssh.host,
            ssh.port,
            cancel=self.cancel,
            check=check,
            probe_s=KNOCK_S,
            pause_s=PAUSE_S,
        )

    def _host_keys(self, machine: Ec2Machine, ssh: Ssh) -> tuple[str, str]:
        """The machine's host keys, and how they became known.

        Only AWS's word counts: the console. Where a row allows it, the network's does, too.
        """
        first_use = self.request.options.get("host_key") == "first-use"
        started = time.monotonic()

        def ask() -> tuple[str, str] | None:
            if keys := host_keys(machine.save_console()):
                return keys, "console"
            machine.check_seems_alive()
            if first_use and time.monotonic() - started > FIRST_USE_AFTER_S:
                self.notify(f"{machine.identity.target}: its host key is taken on first use")
                return self._scanned(ssh), "first-use"
            return None

        return self._awaited(
            machine,
            ask,
            "its console to show the host keys that its first start prints; "
            "`launch.host_key: first-use` does without",
        )

    def _scanned(self, ssh: Ssh) -> str:
        found = run(
            ["ssh-keyscan", "-T", "10", "-p", str(ssh.port), ssh.host],
            deadline=self.deadline,
            cancel=self.cancel,
        ).check("ssh-keyscan could not read the machine's host keys")
        lines = found.stdout.decode(errors="replace").splitlines()
        return "\n".join(line.split(" ", 1)[1] for line in lines if line[:1] not in ("", "#"))


def known_place(request: MachineRequest) -> dict[str, str]:
    """What another process needs to ask AWS about the machine, and to log in."""
    options = request.options
    way = way_of(request.distro, request.communicator, options)
    return {
        "region": options["region"],
        "endpoint": options.get("endpoint", ""),
        "user": options.get("user") or request.distro.ssh_user,
        "port": str(way.port),
        "key": way.key_kind,
        **({"windows": "true"} if request.distro.windows else {}),
        **({"communicator": way.communicator} if way.communicator != "ssh" else {}),
    }


def connection_of(identity: Identity, *, options: tuple[str, ...] = ()) -> Connection:
    """The connection to a machine; its address becomes known later."""
    folder, user = Path(identity.folder), identity.details.get("user", "root")
    if identity.details.get("communicator") == "winrm":
        host, port = identity.details.get("address", ""), int(identity.details["port"])
        return Winrm(folder, host=host, port=port, user=user)
    windows, kind = "windows" in identity.details, identity.details.get("key", "ed25519")
    return (WindowsSsh if windows else Ssh)(
        folder,
        host=identity.details.get("address", ""),
        port=int(identity.details.get("port", SSH_PORT)),
        user=user,
        identity_file=user_key(folder, kind) if identity.folder else folder,
        options=options,
        become_root=user != "root" and not windows,
    )
