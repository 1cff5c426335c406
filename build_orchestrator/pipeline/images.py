"""What the machines of a plan start from: resolved once for each image, before anything boots."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_orchestrator import events
from build_orchestrator.errors import (
    EnvironmentFailure,
    HostNotReady,
    Interrupted,
    OrchestratorError,
)
from build_orchestrator.image import describe, resolve
from build_orchestrator.model import Build, Image, ImageSource, Stage, through_vagrant
from build_orchestrator.pipeline.run import Record, Run


def resolve_images(run: Run) -> dict[str, Image | OrchestratorError]:
    """For each target its image, or why there is none. Images are made in parallel."""
    users: dict[tuple[ImageSource, str, str, str, str], list[Build]] = {}
    for build in run.plan.builds:
        target = build.target
        # The same suite is a disk for one provider and a box for another; an image of AWS is
        # another one in each region, and not every type of machine starts it.
        provider = target.provider if through_vagrant(target.provider) else ""
        region, kinds = (target.options.get(name, "") for name in ("region", "instance_types"))
        where = (provider, target.distro.arch, region, kinds)
        users.setdefault((target.image, *where), []).append(build)
    with ThreadPoolExecutor(max_workers=run.plan.jobs) as pool:
        found = list(pool.map(lambda builds: _resolve_one(run, builds), users.values()))
    return {
        build.name: image
        for builds, image in zip(users.values(), found, strict=True)
        for build in builds
    }


def _resolve_one(run: Run, builds: Sequence[Build]) -> Image | OrchestratorError:
    """Resolve the image that these builds share; its story is told under the first one's name."""
    first = builds[0]
    attempts = first.target.attempts
    for attempt in range(1, attempts + 1):
        try:
            return _resolve(run, first, attempt)
        except (HostNotReady, Interrupted) as error:
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
