"""What a run amounts to: its exit code, and everything that went wrong in a build.        (pure)"""

from __future__ import annotations

from collections.abc import Iterable

from build_orchestrator.errors import ExitCode
from build_orchestrator.model import Failure, MachineFate, Outcome, Published, Result, Stage

PRECEDENCE = (ExitCode.LEAKED, ExitCode.BUILD_FAILED, ExitCode.ENVIRONMENT, ExitCode.OK)
"""Of builds, worst first. Signals and bugs concern the run: between LEAKED and BUILD_FAILED."""


def exit_code(results: Iterable[Result], *, signum: int = 0, bug: bool = False) -> ExitCode:
    """The exit code of a run, by the precedence 5, signals, 70, 1, 3, 0.

    Args:
        signum: SIGHUP, SIGINT or SIGTERM when one of them ended the run, else 0.
        bug: whether something escaped that is no error of the error tree.
    """
    worst = min((verdict(result) for result in results), key=PRECEDENCE.index, default=ExitCode.OK)
    if worst is ExitCode.LEAKED:
        return worst
    if signum:
        return ExitCode(128 + signum)
    return ExitCode.BUG if bug else worst


def verdict(result: Result) -> ExitCode:
    """What one build alone would make of the run.

    A kept machine changes nothing. A cancelled build without a signal is like a failure of the
    environment: it did not fail for its own reasons, and trying again may help.
    """
    states = {one.state for one in result.published}
    if result.machine is MachineFate.LEAKED:
        return ExitCode.LEAKED
    if result.outcome is Outcome.FAILED or Published.CONFLICT in states:
        return ExitCode.BUILD_FAILED
    if result.outcome in {Outcome.ENVIRONMENT, Outcome.CANCELLED} or Published.NO in states:
        return ExitCode.ENVIRONMENT
    return ExitCode.OK


def failures(result: Result, *, run_id: str) -> tuple[Failure, ...]:
    """Everything about a build that a person should act on: the build's own failure, destinations
    that did not get its artifacts, and a machine that may be alive."""
    found = [result.failure] if result.failure is not None else []
    stages = {failure.stage for failure in found}
    if Stage.PUBLISH not in stages:
        found += _publish_failures(result, run_id)
    if result.machine is MachineFate.LEAKED and Stage.DESTROY not in stages:
        found.append(
            Failure(
                stage=Stage.DESTROY,
                brief="the machine may still be alive",
                details=result.machine_name,
                resolution="`build sweep` destroys it; `build sweep --dry-run` shows it.",
            )
        )
    if not found and result.outcome is Outcome.CANCELLED:
        found.append(Failure(stage=Stage.QUEUE, brief="cancelled before it ended"))
    return tuple(found)


def _publish_failures(result: Result, run_id: str) -> list[Failure]:
    """One failure for each state that is not yes, with the destinations in its details."""
    advice = {
        Published.CONFLICT: (
            "published bytes would have been changed",
            "Published artifacts never change: raise VERSION, PRERELEASE or BUILD.",
        ),
        Published.NO: (
            "the artifact was built, but not published everywhere",
            f"`build publish {run_id}` publishes what was collected.",
        ),
    }
    found = []
    for state, (brief, resolution) in advice.items():
        places = [one for one in result.published if one.state is state]
        if places:
            details = "\n".join(f"{one.url}: {one.reason or one.state}" for one in places)
            found.append(
                Failure(stage=Stage.PUBLISH, brief=brief, details=details, resolution=resolution)
            )
    return found
