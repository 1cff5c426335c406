"""Many builds at once: one's failure never stops the others, unless asked."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator import events
from build_orchestrator.cache import write_whole
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import BuildFailure, Interrupted, MachineLeaked, OrchestratorError
from build_orchestrator.inputs import inputs_of
from build_orchestrator.machine.contract import Left, Shares
from build_orchestrator.model import (
    Build,
    Failure,
    Image,
    Input,
    MachineFate,
    Outcome,
    Plan,
    Result,
    Stage,
)
from build_orchestrator.pipeline.at_once import at_once
from build_orchestrator.pipeline.bake import bake_target, inputs_of_bake
from build_orchestrator.pipeline.build import broken, not_started
from build_orchestrator.pipeline.images import base_images, resolve_images
from build_orchestrator.pipeline.run import Run
from build_orchestrator.pipeline.unchanged import bring_up_to_date
from build_orchestrator.plan import encode, freeze

PLAN = "plan.json"
CLOSE_S = 180.0
"""How long what a run's machines shared may take to go; the last machine must have ended first."""


@dataclass(frozen=True, slots=True)
class Story:
    """What is done to each build of a plan."""

    images: Callable[[Run], dict[str, Image | OrchestratorError]]
    """Target -> what its machine starts from, or why there is nothing."""
    inputs: Callable[[Run, Build, Image], tuple[Input, ...]]
    """What decides whether it is up to date."""
    one: Callable[[Run, Build], Result]


def _inputs_of_build(run: Run, build: Build, image: Image) -> tuple[Input, ...]:
    plan = run.plan
    return inputs_of(build, Path(plan.project), image, nonce=plan.run_uuid, now=plan.created_at)


BUILDING = Story(resolve_images, _inputs_of_build, bring_up_to_date)
BAKING = Story(base_images, inputs_of_bake, bake_target)


def run_plan(run: Run, story: Story = BUILDING) -> tuple[Result, ...]:
    """Do every build of the run's plan; return one row for each, in the plan's order."""
    write_whole(run.folder / PLAN, encode(run.plan))
    images = story.images(run)
    run = dataclasses.replace(run, plan=_frozen(run, images, story))
    write_whole(run.folder / PLAN, encode(run.plan))
    queued = time.monotonic()

    def one(build: Build) -> Result:
        image = images[build.name]
        if run.cancel.is_set and not isinstance(image, MachineLeaked):
            return _cancelled(run, build)
        if isinstance(image, OrchestratorError):
            result = _without_image(run, build, image)
        else:
            waited = time.monotonic() - queued
            try:
                result = story.one(run, build)
            except Exception as error:  # noqa: BLE001 - a run without its report tells nothing
                result = broken(run, build, error)
            result = dataclasses.replace(result, stages_s={Stage.QUEUE: waited, **result.stages_s})
        if run.settings.fail_fast and result.outcome not in (Outcome.BUILT, Outcome.UNCHANGED):
            run.cancel.set(0)
        return result

    alive: dict[str, Left] = {}
    try:
        results = tuple(at_once(one, run.plan.builds, jobs=run.plan.jobs))
    finally:
        alive |= _close_providers(run)
        for lock in run.held:
            lock.release()
    return tuple(_with_living(result, alive.get(result.target)) for result in results)


def _close_providers(run: Run) -> dict[str, Left]:
    """Remove what machines of this run shared, once the last of them has ended.

    Returns:
        The machines that have not ended, by target.
    """
    alive = {}
    for name in dict.fromkeys(build.target.provider for build in run.plan.builds):
        provider = run.provider(name)
        if isinstance(provider, Shares):
            limit_s = run.cancel.teardown_s(CLOSE_S)
            for left in provider.close(deadline=Deadline(Stage.DESTROY, limit_s)):
                again = f"`build sweep --provider {name}` removes it"
                run.observer(events.Warned(text=f"{left.text}; {again}"))
                run.journal.is_needed = True
                if left.machine:
                    alive[left.target] = left
                    with contextlib.suppress(OSError):  # Then only a sweep of all finds it.
                        run.journal.identify(left.machine)
    return alive


def _with_living(result: Result, left: Left | None) -> Result:
    """A row as it was told, unless a machine of its target is alive that was taken for dead."""
    if left is None or left.machine is None or result.machine is MachineFate.LEAKED:
        return result
    failure = Failure(
        stage=Stage.DESTROY,
        brief="its machine may still be alive, though it was taken for dead",
        details=left.text,
        resolution="`build sweep` destroys it.",
    )
    return dataclasses.replace(
        result,
        machine=MachineFate.LEAKED,
        machine_name=left.machine.name,
        failure=result.failure or failure,
    )


def _frozen(run: Run, images: dict[str, Image | OrchestratorError], story: Story) -> Plan:
    """The plan with what was resolved: images, inputs, keys and folders.

    A build whose inputs cannot be read gets the reason in the place of its image.
    """
    inputs: dict[str, tuple[Input, ...]] = {}
    for build in run.plan.builds:
        image = images[build.name]
        try:
            if isinstance(image, Image):
                inputs[build.name] = story.inputs(run, build, image)
        except OrchestratorError as error:  # Such as a socket somewhere in a folder.
            images[build.name] = error
    found = {name: image for name, image in images.items() if isinstance(image, Image)}
    return freeze(run.plan, found, inputs)


def _without_image(run: Run, build: Build, error: OrchestratorError) -> Result:
    """The row of a build that has nothing to start from; a flavour's script may be why."""
    leaked = isinstance(error, MachineLeaked)
    failure = Failure(
        stage=Stage.DESTROY if leaked else Stage.IMAGE,
        brief=error.brief,
        details=error.details,
        resolution=error.resolution,
    )
    outcome = Outcome.FAILED if isinstance(error, BuildFailure) else Outcome.ENVIRONMENT
    fate = MachineFate.LEAKED if leaked else MachineFate.NONE
    return not_started(run, build, outcome, failure, fate)


def _cancelled(run: Run, build: Build) -> Result:
    error = Interrupted(run.cancel.signum)
    run.observer(events.Note(target=build.name, text="not started"))
    return not_started(run, build, Outcome.CANCELLED, Failure(stage=Stage.QUEUE, brief=error.brief))
