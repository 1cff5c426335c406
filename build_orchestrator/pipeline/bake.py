"""Bake images: one try on a machine of Packer's, and what all tries amount to."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from build_orchestrator import events
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import MachineLeaked, OrchestratorError
from build_orchestrator.image import baked, lock
from build_orchestrator.image.bake import bake
from build_orchestrator.image.bake_base import Place
from build_orchestrator.image.bake_inputs import bake_inputs, rendered
from build_orchestrator.image.baked import Baked, Choice
from build_orchestrator.journal import machine_name
from build_orchestrator.machine import BAKER
from build_orchestrator.machine.baker import SUFFIX
from build_orchestrator.model import (
    Artifact,
    Build,
    Identity,
    Image,
    Input,
    MachineFate,
    Outcome,
    Result,
    Stage,
)
from build_orchestrator.pipeline.build import LOG, build_target, try_until_done
from build_orchestrator.pipeline.run import Record, Run
from build_orchestrator.pipeline.teardown import destroy
from build_orchestrator.render.packerfile import path_of


class BakeAttempt:
    """One call of Packer, from its intent to the end of its machine."""

    def __init__(self, run: Run, build: Build, record: Record) -> None:
        self._run = run
        self._build = build
        self._record = record
        self.baked: Baked | None = None

    def go(self) -> tuple[Artifact, ...]:
        """Return the image's file, where it is one of this host, or raise what went wrong."""
        limit_s = self._build.target.deadlines.image_s
        with self._record.during(Stage.IMAGE, limit_s, "Packer to make the image") as deadline:
            with baked.recorded(
                self._build,
                self._build.inputs,
                lambda into: self._make(into, deadline),
                force=self._run.settings.force,
                deadline=deadline,
                cancel=self._run.cancel,
            ) as made:
                if made.ami:
                    lock.write_baked(Path(self._run.plan.project), made)
            self.baked = made
        if made.ami:
            return ()
        artifact = Artifact(
            name=made.file,
            path=str(made.folder / made.file),
            size_bytes=made.size_bytes,
            sha256=made.sha256,
            md5="",
        )
        return (artifact,)

    def _make(self, into: Path, deadline: Deadline) -> Baked:
        run, build = self._run, self._build
        name = machine_name(run.plan.run_uuid, f"{build.name}{SUFFIX}", self._record.attempt)
        limit_s = build.target.deadlines.image_s * 1.1
        identity = Identity(
            provider=BAKER,
            name=name,
            run_uuid=run.plan.run_uuid,
            target=build.name,
            attempt=self._record.attempt,
            folder=str(run.journal.folder_for(name)),
            details=build.target.options,
        )
        assert build.image is not None
        folder = run.folder_of(build.name)
        self._show(folder)
        request = {"key": build.key, "options": dict(build.target.options)}
        run.journal.intend(identity, limit_at=time.time() + limit_s, request=request)
        machine = run.provider(BAKER).adopt(identity)
        try:
            return bake(
                Place(
                    build=build,
                    base=build.image,
                    folder=Path(identity.folder),
                    name=name,
                    provider=run.provider(build.target.provider),
                    run_uuid=run.plan.run_uuid,
                    run_id=run.plan.run_id,
                    attempt=self._record.attempt,
                    limit_s=limit_s,
                    deadline=deadline,
                    cancel=run.cancel,
                ),
                into,
                project=Path(run.plan.project),
                console=folder / "console.txt",
                trust=_trust(run, build),
                on_line=self._hear,
            )
        finally:
            limit_s = build.target.deadlines.destroy_s
            destroy(run, self._record, machine, Deadline(Stage.DESTROY, limit_s))

    def _show(self, folder: Path) -> None:
        """Keep what Packer is given beside the log."""
        project, build = Path(self._run.plan.project), self._build
        assert build.flavour is not None
        text = rendered(project, [build.target], [build.flavour])
        (folder / Path(path_of(build.target.distro.name)).name).write_text(text)

    def _hear(self, line: str) -> None:
        text = self._run.masker.mask(line)
        self._record.tell(events.OutputLine(target=self._build.name, text=text))


def inputs_of_bake(run: Run, build: Build, base: Image) -> tuple[Input, ...]:
    """What decides whether a baked image is fresh."""
    return bake_inputs(build, Path(run.plan.project), base)


def bake_target(run: Run, build: Build) -> Result:
    """Bake one image, unless a fresh one is there. Never raises."""
    try:
        choice = fresh_image(run, build, build.inputs)
    except OrchestratorError as error:
        choice = Choice(image=None, reason=error.brief)  # The attempt meets it, too, and tells.
    if choice.image is None or run.settings.force:
        reason = choice.reason or "asked for again"
        run.observer(events.OutputLine(target=build.name, text=f"baking: {reason}"))
        return build_target(run, build, BakeAttempt)
    fresh = choice.image
    result = Result(
        target=build.name,
        outcome=Outcome.UNCHANGED,
        machine=MachineFate.NONE,
        image=fresh.title,
        key=build.key,
        log=str(run.folder_of(build.name) / LOG),
    )
    run.observer(events.OutputLine(target=build.name, text=f"fresh already: {fresh.title}"))
    run.observer(events.BuildEnded(target=build.name, result=result))
    return result


def fresh_image(run: Run, build: Build, inputs: Iterable[Input]) -> Choice:
    """The baked image that a build can start from now, or why there is none. While the run lives
    nobody on this host removes it.

    Raises:
        ConfigurationError: the lock is wrong.
        EnvironmentFailure: AWS does not answer.
    """
    inputs, project = tuple(inputs), Path(run.plan.project)
    deadline = Deadline(Stage.IMAGE, build.target.deadlines.image_s, "the baked image")
    while True:
        choice = baked.choose(build, inputs, lock.known_images(build.target, project))
        if choice.image is None:
            return choice
        held = baked.hold(choice.image, deadline=deadline, cancel=run.cancel)
        # It may have been removed before it was held.
        again = baked.choose(build, inputs, lock.known_images(build.target, project))
        if again.image == choice.image:
            run.held.append(held)
            return baked.available(choice, build, deadline=deadline, cancel=run.cancel)
        held.release()


def bake_first(run: Run, build: Build, base: Image, inputs: tuple[Input, ...], key: str) -> None:
    """Bake what a build is to start from.

    Raises:
        MachineLeaked: whether there is one or not, nothing is started beside a machine that may be
            alive.
        OrchestratorError: why there is none.
    """
    wanted = dataclasses.replace(build, image=base, inputs=inputs, key=key)
    record = Record(target=build.name, observer=run.observer)
    why = ""
    try:
        try_until_done(run, wanted, record, BakeAttempt)
    except OrchestratorError as error:
        if record.fate is not MachineFate.LEAKED:
            raise
        why = str(error)
    if record.fate is MachineFate.LEAKED:
        raise MachineLeaked(
            "the machine in which its image was made may still be alive",
            details=f"{record.machine_name}\n{run.masker.mask(why)}".rstrip(),
            resolution="`build sweep` destroys it; `build sweep --dry-run` shows it.",
        )


def _trust(run: Run, build: Build) -> Mapping[str, str]:
    """What the host needs to reach packages; in the plan, what is secret of it stands as ***."""
    return {name: run.secrets.get(name, value) for name, value in build.host_trust.items()}
