"""One machine of EC2, and the connection into it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    EnvironmentFailure,
    MachineLeaked,
    MachineLost,
    OrchestratorError,
)
from build_orchestrator.journal import HEARTBEAT, run_state
from build_orchestrator.locks import is_held
from build_orchestrator.machine import processes
from build_orchestrator.machine.contract import OnLine
from build_orchestrator.machine.ec2.api import PATIENT, Api, persist
from build_orchestrator.machine.ec2.errors import Meaning, meaning_of
from build_orchestrator.machine.ec2.launch import (
    KEPT_UNTIL,
    NAME,
    Seen,
    tag_list,
)
from build_orchestrator.machine.ec2.shared import remove_shared
from build_orchestrator.machine.ec2.watch import Watch
from build_orchestrator.model import Identity
from build_orchestrator.transport.ssh import Ssh
from build_orchestrator.transport.winrm import Winrm

Connection = Ssh | Winrm

SHOWN_S = 300.0
"""For so long AWS may not show yet what it has made."""
LOOK_S = 2.0
KEPT_S = 60.0
"""For so long AWS is asked to write down that a machine is kept: sweeps of other hosts go by it."""
LEARNS_S = 5.0
LEARN_PAUSE_S = 0.5


class Ec2Machine:
    """One instance. ``watch`` is None where another process launched it."""

    start = "cold"

    def __init__(
        self,
        identity: Identity,
        api: Api,
        connection: Connection,
        *,
        watch: Watch | None = None,
        console: Path | None = None,
        limit_at: float = 0.0,
        outlives: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            console: where its console is kept.
            limit_at: when it ends itself, by AWS's clock.
            outlives: called where it will outlive this process: it is kept, or would not end.
        """
        self.identity = identity
        self.host_key = "unknown"
        self.api = api
        self.connection = connection
        self.watch = watch
        self._console = console
        self._limit_at = limit_at
        self._outlives = outlives
        self._ended: Seen | None = None
        self._is_gone = False

    @property
    def instance_id(self) -> str:
        """Empty where AWS has not told."""
        return self.identity.details.get("instance", "")

    # --- inside it ------------------------------------------------------------------------------

    def run(
        self,
        script: bytes,
        *,
        deadline: Deadline,
        cancel: Cancel = NEVER,
        on_line: OnLine | None = None,
    ) -> int:
        with self._losses_explained():
            connection = self._connected(deadline, cancel)
            return connection.run(script, deadline=deadline, cancel=cancel, on_line=on_line)

    def push(
        self, source: Path, target: PurePosixPath, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        with self._losses_explained():
            connection = self._connected(deadline, cancel)
            return connection.push(source, target, deadline=deadline, cancel=cancel)

    def pull(
        self, source: PurePosixPath, target: Path, *, deadline: Deadline, cancel: Cancel = NEVER
    ) -> str:
        with self._losses_explained():
            connection = self._connected(deadline, cancel)
            return connection.pull(source, target, deadline=deadline, cancel=cancel)

    def _connected(self, deadline: Deadline, cancel: Cancel) -> Connection:
        """The connection; an adopted machine gets one when it is first needed."""
        if self.watch is None and not self.connection.check():
            self.connection.wait(deadline, cancel, lambda: True)
        return self.connection

    @contextlib.contextmanager
    def _losses_explained(self) -> Iterator[None]:
        """A broken connection tells nothing; AWS may."""
        try:
            yield
        except MachineLost as error:
            if not self._is_known_to_have_ended() or self._ended is None:
                raise
            self.save_console()
            raise MachineLost(
                f"the machine has ended: {self._ended.reason or self._ended.state}",
                details=error.details,
            ) from error

    def _is_known_to_have_ended(self) -> bool:
        """Whether AWS says so, which it may a little later than our connection does."""
        until = time.monotonic() + LEARNS_S
        while self.alive():
            if time.monotonic() > until:
                return False
            NEVER.sleep(LEARN_PAUSE_S)
        return True

    # --- its state ------------------------------------------------------------------------------

    def died(self, seen: Seen) -> None:
        """AWS says that it has ended: whoever waits for its answer waits in vain."""
        self._ended = seen
        self.connection.close()

    def seems_alive(self) -> bool:
        """Whether AWS has not said otherwise so far; asks nothing."""
        return self._ended is None

    def check_seems_alive(self) -> None:
        """Raise MachineLost where AWS has said that it has ended."""
        if self._ended is not None:
            raise MachineLost("the machine ended before it answered", details=self._ended.reason)

    def alive(self) -> bool:
        if self._is_gone or self._ended is not None:
            return False
        if self.watch is None:
            return any(seen.alive for seen in self._look())
        self.watch.ask()
        last = self.watch.last(self.identity.name)
        if last is not None and not last.alive:
            self._ended = last
        return self._ended is None

    def _look(self) -> list[Seen]:
        """What AWS shows of it, asked by id, or by name where the id is not known."""
        if self.instance_id:
            return self.api.machines(instance_id=self.instance_id)
        machines = self.api.machines(run=self.identity.run_uuid)
        return [seen for seen in machines if seen.name == self.identity.name]

    def save_console(self) -> str:
        """Keep what the machine has printed so far; return it."""
        text = self.api.console(self.instance_id) if self.instance_id else ""
        if text and self._console is not None:
            self._console.write_text(text)
        return text

    def release(self) -> None:
        self.connection.close()
        if self.watch is not None:
            self.watch.forget(self.identity.name, self.instance_id)
            tags = tag_list({KEPT_UNTIL: str(int(self._limit_at))})
            with contextlib.suppress(Exception):  # This host's own journal says so, too.
                persist(
                    lambda: self.api.ec2.create_tags(Resources=[self.instance_id], Tags=tags),
                    "say that it is kept",
                    deadline=Deadline("keep", KEPT_S),
                    cancel=NEVER,
                )
            self._outlives()

    # --- its end --------------------------------------------------------------------------------

    def destroy(self, *, deadline: Deadline) -> None:
        self.connection.close()
        if not self._is_gone:
            for instance_id in self._ids(deadline):
                self._terminate(instance_id, deadline)
            self._is_gone = True
            if self.watch is not None:
                self.watch.forget(self.identity.name, self.instance_id)
        if self.watch is None and not self._run_lives():
            self._remove_shared(deadline)
        if self.identity.folder:
            processes.remove_folder(Path(self.identity.folder), self.identity.name)

    def _ids(self, deadline: Deadline) -> list[str]:
        """What is to be terminated: one machine, or none."""
        if self.instance_id:
            return [self.instance_id]
        if NAME.fullmatch(self.identity.name) is None:
            return []  # What a run shared, and no machine.
        return self._found_by_name(deadline)

    def _found_by_name(self, deadline: Deadline) -> list[str]:
        """A launch without an answer: it counts as a machine until AWS has shown none of its name
        for long enough.

        Raises:
            MachineLeaked: the deadline is before that.
        """
        shown_by = float(self.identity.details.get("intended_at", "0")) + SHOWN_S
        while True:
            try:
                found = persist(
                    self._look, f"look for {self.identity.name}", deadline=deadline, cancel=NEVER
                )
            except OrchestratorError as error:
                raise self._leaked(error.brief, error.details) from error
            if found:
                return [seen.instance_id for seen in found if seen.alive]
            left_s = shown_by - time.time()
            if left_s <= 0:
                return []
            # Who has just asked for it looks as long as it may; a sweep comes again.
            if left_s > deadline.remaining_s and (self.watch is None or deadline.passed):
                until = time.strftime("%H:%M:%SZ", time.gmtime(shown_by))
                raise self._leaked(
                    "its launch was not answered, so it may still appear",
                    f"AWS shows no machine of this name; after {until} that is certain.",
                )
            NEVER.sleep(min(LOOK_S, left_s, deadline.remaining_s))

    def _terminate(self, instance_id: str, deadline: Deadline) -> None:
        # A young machine that AWS does not know may not be known everywhere yet, even where it
        # has been shown before; an old one has ended long ago.
        is_old = time.time() > float(self.identity.details.get("launched_at", "0")) + SHOWN_S
        unknown = frozenset({Meaning.GONE, Meaning.FORBIDDEN})
        patient = PATIENT if is_old else PATIENT | unknown

        def ask() -> None:
            from botocore.exceptions import ClientError

            try:
                self.api.ec2.terminate_instances(InstanceIds=[instance_id])
            except ClientError as error:
                if meaning_of(error) not in unknown:
                    raise
                machines = self._look()
                if any(seen.alive for seen in machines) or not (machines or is_old):
                    raise

        try:
            persist(ask, "terminate", deadline=deadline, cancel=NEVER, patient=patient)
        except OrchestratorError as error:
            raise self._leaked(error.brief, error.details) from error
        self.api.told_to_end.add(instance_id)

    def _leaked(self, why: str, details: str) -> MachineLeaked:
        self._outlives()
        known = self.instance_id or "not known to AWS yet"
        return MachineLeaked(
            f"{self.identity.name} ({known}, {self.api.region}) may still be alive: {why}",
            details=details,
            resolution="`build sweep` destroys it.",
        )

    def _run_lives(self) -> bool:
        """Whether an orchestrator on this host still needs what its machines share."""
        return is_held(run_state(self.identity.run_uuid) / HEARTBEAT)

    def _remove_shared(self, deadline: Deadline) -> None:
        """The last machine of a run takes with it what they shared; others leave it."""
        ended = self.api.told_to_end
        if left := remove_shared(self.api, self.identity.run_uuid, ended, deadline=deadline):
            raise EnvironmentFailure(
                f"the machine is gone, but something is left: {'; '.join(left)}"
            )
