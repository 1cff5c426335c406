"""All tries of one build, what they amount to, and the publishing that follows."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from build_orchestrator import events
from build_orchestrator.errors import (
    BuildFailure,
    EnvironmentFailure,
    HostNotReady,
    Interrupted,
    MachineLeaked,
    NoCapacity,
    OrchestratorError,
    Refused,
)
from build_orchestrator.model import (
    Artifact,
    Build,
    Failure,
    MachineFate,
    Outcome,
    Published,
    PublishedArtifact,
    Result,
    Stage,
)
from build_orchestrator.pipeline.attempt import Attempt
from build_orchestrator.pipeline.meter import Meter
from build_orchestrator.pipeline.run import Record, Run
from build_orchestrator.publish import publish

LOG = "log.txt"
_ALIVE = frozenset({MachineFate.LEAKED, MachineFate.KEPT})


class Try(Protocol):
    """One try of something that is done in a machine."""

    def go(self) -> tuple[Artifact, ...]: ...


Trying = Callable[[Run, Build, Record], Try]


def build_target(run: Run, build: Build, trying: Trying = Attempt) -> Result:
    """Do one build to its end, whatever that is. Never raises."""
    return _ended(
        run, build, Outcome.BUILT, lambda record: try_until_done(run, build, record, trying)
    )


def publish_collected(run: Run, build: Build, artifacts: tuple[Artifact, ...]) -> Result:
    """Publish what was built before. Never raises."""
    return _ended(run, build, Outcome.UNCHANGED, lambda _: artifacts)


def _ended(
    run: Run,
    build: Build,
    outcome: Outcome,
    artifacts_of: Callable[[Record], tuple[Artifact, ...]],
) -> Result:
    """Get artifacts and publish them, or explain what went wrong."""
    record = Record(target=build.name, observer=run.observer, meter=Meter(build.hourly_usd))
    artifacts: tuple[Artifact, ...] = ()
    published: tuple[PublishedArtifact, ...] = ()
    failure: Failure | None = None
    try:
        artifacts = artifacts_of(record)
        published = _publish(run, build, artifacts, record)
        if any(row.state is not Published.YES for row in published):
            run.cancel.check()  # The rows stay: a destination may have all of it already.
    except Exception as error:  # noqa: BLE001 - one build's end never stops the others
        outcome, failure = _explain(run, record, error)
    result = Result(
        target=build.name,
        outcome=outcome,
        machine=record.fate,
        kept_until=_utc(record.kept_until),
        published=published,
        artifacts=artifacts,
        attempts=record.attempt,
        stages_s=record.stages_s,
        phases_s=record.phases_s,
        image=build.image.source if build.image else "",
        start=record.start,
        host_key=record.host_key,
        key=build.key,
        log=str(run.folder_of(build.name) / LOG),
        machine_name=record.machine_name,
        used=record.meter.used(),
        failure=failure or _leak(run, record),
    )
    record.tell(events.BuildEnded(target=build.name, result=result))
    return result


def not_started(
    run: Run,
    build: Build,
    outcome: Outcome,
    failure: Failure,
    machine: MachineFate = MachineFate.NONE,
) -> Result:
    """The row of a build that never got a machine; the one that made its image may be alive."""
    result = Result(
        target=build.name,
        outcome=outcome,
        machine=machine,
        log=str(run.folder_of(build.name) / LOG),
        failure=failure,
    )
    run.observer(events.BuildEnded(target=build.name, result=result))
    return result


def broken(run: Run, build: Build, error: Exception) -> Result:
    """The row of a build that a bug of ours ended outside all tries: the others go on."""
    record = Record(target=build.name, observer=run.observer)
    return not_started(run, build, *_explain(run, record, error))


def try_until_done(run: Run, build: Build, record: Record, trying: Trying) -> tuple[Artifact, ...]:
    """Try on new machines while the environment fails and the budget lasts."""
    tries = 0
    while True:
        run.cancel.check()
        record.attempt += 1
        record.rule = ""
        try:
            return trying(run, build, record).go()
        except EnvironmentFailure as error:
            # Each place is asked once before it counts as a try: nothing was started there.
            tries += not (isinstance(error, NoCapacity) and error.elsewhere)
            # A machine that may be alive is nothing to start another one beside.
            # And whoever keeps a failed machine wants to look into this one.
            last = tries >= build.target.attempts or isinstance(error, Refused)
            if last or record.fate in _ALIVE:
                raise
            record.tell(
                events.AttemptFailed(
                    target=build.name,
                    attempt=record.attempt,
                    stage=record.stage,
                    reason=run.masker.mask(error.brief),
                )
            )


def _publish(
    run: Run, build: Build, artifacts: tuple[Artifact, ...], record: Record
) -> tuple[PublishedArtifact, ...]:
    if not build.recipe.destinations:
        return ()
    with record.during(
        Stage.PUBLISH, build.target.deadlines.publish_s, "the destinations to take the artifacts"
    ) as deadline:
        return publish(
            artifacts,
            build,
            project=Path(run.plan.project),
            s3_endpoint=run.settings.s3_endpoint,
            deadline=deadline,
            cancel=run.cancel,
            observer=run.observer,
        )


def _explain(run: Run, record: Record, error: Exception) -> tuple[Outcome, Failure]:
    """What an error means for the row."""
    if isinstance(error, OSError):
        record.rule = "host"
        error = EnvironmentFailure(
            f"this host failed us: {error}",
            resolution="Is a disk full, or a folder gone? `build doctor` looks at both.",
        )
    if not isinstance(error, OrchestratorError):
        run.bugs.append(error)
        for line in "".join(traceback.format_exception(error)).splitlines():
            text = run.masker.mask(line)
            record.tell(events.OutputLine(target=record.target, text=text))
        error = EnvironmentFailure(
            f"a bug of ours: {type(error).__name__}: {error}",
            resolution="The trace is in the log; please report it.",
        )
    outcome = {
        Interrupted: Outcome.CANCELLED,
        BuildFailure: Outcome.FAILED,
        EnvironmentFailure: Outcome.ENVIRONMENT,
        HostNotReady: Outcome.ENVIRONMENT,
        MachineLeaked: Outcome.ENVIRONMENT,
    }
    kind = next(kind for kind in (*outcome, OrchestratorError) if isinstance(error, kind))
    failure = Failure(
        stage=record.stage,
        brief=run.masker.mask(error.brief),
        details=run.masker.mask(error.details),
        resolution=run.masker.mask(error.resolution),
        rule=record.rule,
    )
    return outcome.get(kind, Outcome.ENVIRONMENT), failure


def _leak(run: Run, record: Record) -> Failure | None:
    """A teardown that failed after everything else went well."""
    leak = record.leak
    if leak is None:
        return None
    # Whatever else went wrong, such as a deadline, says nothing of what is left.
    told = isinstance(leak, MachineLeaked) and leak.resolution
    resolution = leak.resolution if told else f"`build sweep` destroys it. {leak.resolution}"
    return Failure(
        stage=Stage.DESTROY,
        brief=leak.brief,
        details=f"{record.machine_name}\n{run.masker.mask(leak.details)}".rstrip(),
        resolution=resolution.rstrip(),
    )


def _utc(at: float) -> str:
    """ISO 8601 for people and programs; empty for 0."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else ""
