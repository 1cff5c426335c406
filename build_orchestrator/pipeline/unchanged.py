"""Build only what is not there: a build whose key is published already needs no machine, and one
that was collected before only needs to be published."""

from __future__ import annotations

from pathlib import Path

from build_orchestrator import events
from build_orchestrator.deadline import Deadline
from build_orchestrator.inputs import can_match
from build_orchestrator.model import Build, MachineFate, Outcome, PublishedArtifact, Result, Stage
from build_orchestrator.pipeline.build import LOG, build_target, publish_collected
from build_orchestrator.pipeline.run import Run
from build_orchestrator.publish import published_already

LOOK_S = 60.0
"""How long destinations may take to say what they have; building is always an answer."""


def bring_up_to_date(run: Run, build: Build) -> Result:
    """Build a target, unless what would come out is there already. Never raises."""
    if run.settings.force or not can_match(build.inputs):  # Then nobody needs to be asked.
        return build_target(run, build)
    rows = published_already(
        build,
        project=Path(run.plan.project),
        s3_endpoint=run.settings.s3_endpoint,
        deadline=Deadline(Stage.PUBLISH, LOOK_S, "the destinations to say what they have"),
        cancel=run.cancel,
    )
    if rows:
        return _unchanged(run, build, rows)
    artifacts = run.collected(build.key)
    if artifacts:
        _tell(run, build, f"collected before: {Path(artifacts[0].path).parent}; publishing that")
        return publish_collected(run, build, artifacts)
    return build_target(run, build)


def _unchanged(run: Run, build: Build, rows: tuple[PublishedArtifact, ...]) -> Result:
    result = Result(
        target=build.name,
        outcome=Outcome.UNCHANGED,
        machine=MachineFate.NONE,
        published=rows,
        image=build.image.source if build.image else "",
        key=build.key,
        log=str(run.folder_of(build.name) / LOG),
    )
    _tell(run, build, "up to date: published already; --force builds it all the same")
    run.observer(events.BuildEnded(target=build.name, result=result))
    return result


def _tell(run: Run, build: Build, text: str) -> None:
    run.observer(events.OutputLine(target=build.name, text=text))
