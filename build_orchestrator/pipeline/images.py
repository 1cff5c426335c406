"""What the machines of a plan start from: resolved once for each image, before anything boots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from build_orchestrator import events
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import (
    DiskFull,
    EnvironmentFailure,
    HostNotReady,
    Interrupted,
    OrchestratorError,
    Refused,
)
from build_orchestrator.image import baked, describe, resolve
from build_orchestrator.image.bake_inputs import bake_inputs
from build_orchestrator.model import Build, Image, Stage, through_vagrant
from build_orchestrator.pipeline.at_once import at_once
from build_orchestrator.pipeline.bake import bake_first, fresh_image
from build_orchestrator.pipeline.run import Record, Run, StartFrom
from build_orchestrator.plan import key_of


def resolve_images(run: Run) -> dict[str, Image | OrchestratorError]:
    """For each target what it starts from, or why there is nothing: a baked image that is fresh,
    or else its base image. Images are made in parallel."""
    return _resolved(run, _start_of)


def base_images(run: Run) -> dict[str, Image | OrchestratorError]:
    """For each target its base image, or why there is none."""
    return _resolved(run, _base_itself)


Choose = Callable[[Run, Build, Image], Image]


def _resolved(run: Run, choose: Choose) -> dict[str, Image | OrchestratorError]:
    users: dict[tuple[Any, ...], list[Build]] = {}
    for build in run.plan.builds:
        target = build.target
        # The same suite is a disk for one provider and a box for another; an image of AWS is
        # another one in each region, and not every type of machine starts it; a baked one belongs
        # to its distro.
        provider = target.provider if through_vagrant(target.provider) else ""
        region, kinds = (target.options.get(name, "") for name in ("region", "instance_types"))
        where = (provider, target.distro, build.flavour, region, kinds)
        users.setdefault((target.image, *where), []).append(build)
    found = at_once(
        lambda builds: _resolve_one(run, builds, choose), users.values(), jobs=run.plan.jobs
    )
    return {
        build.name: image
        for builds, image in zip(users.values(), found, strict=True)
        for build in builds
    }


def _resolve_one(run: Run, builds: Sequence[Build], choose: Choose) -> Image | OrchestratorError:
    """Resolve the image that these builds share; its story is told under the first one's name."""
    base = _base_of(run, builds[0])
    if isinstance(base, OrchestratorError):
        return base
    try:
        return choose(run, builds[0], base)
    except OrchestratorError as error:
        return error
    except OSError as error:
        return EnvironmentFailure(f"the image could not be kept on this host: {error}")


def _base_of(run: Run, first: Build) -> Image | OrchestratorError:
    attempts = first.target.attempts
    for attempt in range(1, attempts + 1):
        try:
            return _resolve(run, first, attempt)
        except (DiskFull, HostNotReady, Interrupted, Refused) as error:
            return error
        except OrchestratorError as error:
            if attempt == attempts:
                return error
            run.observer(
                events.AttemptFailed(
                    target=first.name, attempt=attempt, stage=Stage.IMAGE, reason=error.brief
                )
            )
        except OSError as error:
            return EnvironmentFailure(f"the image could not be kept on this host: {error}")
    raise AssertionError("a target has at least one attempt")


def _base_itself(run: Run, build: Build, base: Image) -> Image:
    del run, build
    return base


def _start_of(run: Run, build: Build, base: Image) -> Image:
    """The baked image that is fresh, or else the base image, saying why.

    Raises:
        EnvironmentFailure: only a baked one will do, and there is none.
    """
    wanted = run.settings.start_from
    if build.flavour is None and wanted is StartFrom.BAKED_ONLY:
        raise EnvironmentFailure(
            f"no baked image will do: recipe {build.recipe.name} has no flavour for {build.name}",
            resolution="Build it without --require-baked, or see flavours in targets.yaml.",
        )
    if build.flavour is None or wanted is StartFrom.BASE:
        return base
    inputs = bake_inputs(build, Path(run.plan.project), base)
    choice = fresh_image(run, build, inputs)
    if choice.image is None and wanted is StartFrom.BAKED_NOW:
        text = f"baking its image first: {choice.reason}"
        run.observer(events.OutputLine(target=build.name, text=text))
        bake_first(run, build, base, inputs, key_of(inputs))
        choice = fresh_image(run, build, inputs)
    if choice.image is None:
        if wanted is StartFrom.BAKED_ONLY:
            raise EnvironmentFailure(
                f"no baked image will do: {choice.reason}",
                details="\n".join(choice.changes),
                resolution=f"`build bake {build.name}` makes one; --bake does so first.",
            )
        text = (
            f"starts from the base image: {choice.reason}; "
            f"`build bake {build.name}` installs the prerequisites once for all builds"
        )
        run.observer(events.OutputLine(target=build.name, text=text))
        return base
    run.observer(events.OutputLine(target=build.name, text=f"starts from {choice.image.title}"))
    return baked.start_from(
        choice.image,
        deadline=Deadline(Stage.IMAGE, build.target.deadlines.image_s, "the baked image"),
        cancel=run.cancel,
        on_line=lambda line: run.observer(events.OutputLine(target=build.name, text=line)),
    )


def _resolve(run: Run, build: Build, attempt: int) -> Image:
    source = build.target.image
    run.cancel.check()
    record = Record(target=build.name, observer=run.observer, attempt=attempt)
    with record.during(
        Stage.IMAGE, build.target.deadlines.image_s, f"the image ({describe(source)})"
    ) as deadline:
        return resolve(
            source,
            provider=build.target.provider,
            project=Path(run.plan.project),
            deadline=deadline,
            cancel=run.cancel,
            arch=build.target.distro.arch,
            where=build.target.options,
            on_line=lambda line: run.observer(events.OutputLine(target=build.name, text=line)),
        )
