"""One try of a build, on a machine that did not exist before and will not exist after."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from build_orchestrator import events
from build_orchestrator.collect import collect, collect_partial
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    MachineLeaked,
    MachineLost,
    OrchestratorError,
    ScriptFailed,
)
from build_orchestrator.evidence import judge
from build_orchestrator.journal import machine_name
from build_orchestrator.machine.contract import Machine, MachineRequest
from build_orchestrator.model import Artifact, Build, Identity, Keep, MachineFate, Stage
from build_orchestrator.pipeline.run import Record, Run
from build_orchestrator.pipeline.teardown import bury, destroy, mask_console
from build_orchestrator.provision import (
    PHASE,
    gather_inputs,
    inside,
    provision,
)
from build_orchestrator.render import environment_file

PARTIAL_S = 60.0
"""How long we try to save what a failed script left."""


class Attempt:
    """One machine, from its intent to its end."""

    def __init__(self, run: Run, build: Build, record: Record) -> None:
        self._run = run
        self._build = build
        self._record = record
        self._folder = run.folder_of(build.name)
        self._limits = build.target.deadlines
        self._inside = inside(build.target.distro)
        self._phase = ("", 0.0)
        self._mask = run.masker.mask

    def go(self) -> tuple[Artifact, ...]:
        """Return the verified artifacts, or raise what went wrong; the machine's end is settled."""
        with self._clean_machine() as machine:
            self._transfer(machine)
            self._provision(machine)
            return self._collect(machine)

    # --- the machine ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _clean_machine(self) -> Iterator[Machine]:
        machine = self._boot()
        failed = True
        try:
            yield machine
            failed = False
        finally:
            self._end(machine, failed=failed)

    def _boot(self) -> Machine:
        run, target = self._run, self._build.target
        name = machine_name(run.plan.run_uuid, target.name, self._record.attempt)
        request = self._request(name)
        provider = run.provider(target.provider)
        for file, text in provider.rendered(request).items():
            (self._folder / file).write_text(text)
        run.journal.intend(
            request.identity,
            limit_at=time.time() + request.limit_s,
            request=msgspec.to_builtins(request, enc_hook=str),
        )
        with self._record.during(
            Stage.BOOT, self._limits.boot_s, "the machine to answer"
        ) as deadline:
            try:
                machine = provider.boot(
                    request,
                    deadline=deadline,
                    cancel=run.cancel,
                    identified=self._identified,
                )
            except MachineLeaked:
                self._record.settle(MachineFate.LEAKED, name)
                raise
            except BaseException:
                bury(run, self._record, name)
                raise
        self._record.start, self._record.host_key = machine.start, machine.host_key
        return machine

    def _identified(self, identity: Identity) -> None:
        self._run.journal.identify(identity)
        self._record.meter.start(identity)

    def _request(self, name: str) -> MachineRequest:
        run, target = self._run, self._build.target
        keep_s = 0.0 if run.settings.keep is Keep.NEVER else run.settings.keep_for_s
        assert self._build.image is not None
        return MachineRequest(
            identity=Identity(
                provider=target.provider,
                name=name,
                run_uuid=run.plan.run_uuid,
                target=target.name,
                attempt=self._record.attempt,
                folder=str(run.journal.folder_for(name)),
            ),
            distro=target.distro,
            image=self._build.image,
            size=target.size,
            limit_s=self._limits.limit_s + keep_s,
            console=self._folder / "console.txt",
            # What failed warm may be the snapshot's fault; a second try leaves nothing to doubt.
            cold=run.settings.cold or self._record.attempt > 1,
            communicator=target.communicator,
            options=target.options,
            project=Path(run.plan.project),
        )

    def _end(self, machine: Machine, *, failed: bool) -> None:
        """Keep the machine, or destroy it; never raise, since another error may be on its way."""
        run, record = self._run, self._record
        if not (self._is_kept(failed) and self._keep(machine)):
            where_it_failed = record.stage
            limit_s = run.cancel.teardown_s(self._limits.destroy_s)
            with record.during(Stage.DESTROY, limit_s, "the machine to be gone") as deadline:
                destroy(run, record, machine, deadline)
            if failed:
                record.stage = where_it_failed
        # Of a kept machine, what it shows from now on is not followed any more.
        mask_console(run, record, self._folder / "console.txt")

    def _keep(self, machine: Machine) -> bool:
        """Whether the machine is kept: one of which no journal says so would be swept, or lost."""
        name, until = machine.identity.name, time.time() + self._run.settings.keep_for_s
        try:
            self._run.journal.keep(name, until)
        except OSError as error:
            text = f"the machine cannot be kept, since that cannot be written down: {error}"
            self._record.tell(events.Warned(target=self._build.name, text=text))
            return False
        machine.release()
        self._record.kept_until = until
        self._record.settle(MachineFate.KEPT, name)
        return True

    def _is_kept(self, failed: bool) -> bool:
        if self._run.cancel.is_set:  # Interrupted: all machines are destroyed.
            return False
        keep = self._run.settings.keep
        return keep is Keep.ALWAYS or (keep is Keep.ON_FAILURE and failed)

    # --- the stages inside it ---------------------------------------------------------------

    def _transfer(self, machine: Machine) -> None:
        with (
            self._record.during(
                Stage.TRANSFER, self._limits.transfer_s, "the inputs to arrive"
            ) as deadline,
            # In the machine's own folder, which sweep removes if we are killed here.
            tempfile.TemporaryDirectory(
                prefix="inputs-", dir=self._run.journal.folder_for(machine.identity.name)
            ) as scratch,
        ):
            for name, text in environment_file(self._build).items():
                (self._folder / name).write_text(text)
            gather_inputs(self._build, Path(self._run.plan.project), Path(scratch))
            place, cancel = self._inside.inputs, self._run.cancel
            machine.push(Path(scratch), place, deadline=deadline, cancel=cancel)

    def _provision(self, machine: Machine) -> None:
        with self._record.during(
            Stage.PROVISION, self._limits.provision_s, "the script to end"
        ) as deadline:
            try:
                status = provision(
                    machine,
                    self._build,
                    secrets=self._run.secrets,
                    deadline=deadline,
                    cancel=self._run.cancel,
                    on_line=self._hear,
                )
            except DeadlineExceeded as error:
                self._blame(machine, error.brief, 0, error)
            except MachineLost:
                self._record.rule = "machine-lost"
                raise
            finally:
                self._end_phase()
            if status != 0:
                self._blame(machine, f"the script ended with status {status}", status)

    def _blame(
        self, machine: Machine, brief: str, status: int, cause: OrchestratorError | None = None
    ) -> NoReturn:
        """Decide by evidence whose fault it was, save what the script left, and raise."""
        state = Path(self._run.journal.state)
        verdict = judge(
            machine,
            status,
            state_folder=state,
            cancel=self._run.cancel,
            windows=self._build.target.distro.windows,
        )
        self._record.rule = "deadline" if cause and not verdict.environment else verdict.rule
        kept = machine.alive() and collect_partial(
            machine,
            self._folder / "partial",
            source=self._inside.output,
            deadline=Deadline(Stage.COLLECT, PARTIAL_S),
            cancel=self._run.cancel,
        )
        kind = EnvironmentFailure if verdict.environment else ScriptFailed
        raise kind(
            brief,
            details=verdict.explanation if cause is None else cause.details,
            resolution=(
                "Try again: nothing suggests that the script itself is wrong."
                if verdict.environment
                else "The last lines of the log say more; --keep on-failure lets you look inside."
            )
            + (f" What it left is in {self._folder / 'partial'}." if kept else ""),
        ) from cause

    def _collect(self, machine: Machine) -> tuple[Artifact, ...]:
        with self._record.during(
            Stage.COLLECT, self._limits.collect_s, "the outputs to arrive"
        ) as deadline:
            return collect(
                machine,
                self._build,
                self._folder,
                source=self._inside.output,
                deadline=deadline,
                cancel=self._run.cancel,
            )

    # --- what the script says ---------------------------------------------------------------

    def _hear(self, line: str) -> None:
        text = self._mask(line)
        if match := PHASE.fullmatch(text):
            self._end_phase()
            self._phase = (match["name"], time.monotonic())
            self._record.tell(events.PhaseStarted(target=self._build.name, phase=match["name"]))
        self._record.tell(events.OutputLine(target=self._build.name, text=text))

    def _end_phase(self) -> None:
        name, since = self._phase
        if name:
            spent = self._record.phases_s.get(name, 0.0) + time.monotonic() - since
            self._record.phases_s[name] = spent
        self._phase = ("", 0.0)
