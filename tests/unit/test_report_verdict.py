"""The exit code of a run, and what a person should act on."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from build_orchestrator.errors import ExitCode
from build_orchestrator.model import (
    Failure,
    MachineFate,
    Outcome,
    Published,
    PublishedArtifact,
    Result,
)
from build_orchestrator.report import exit_code, failures

SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM]


def result(
    outcome: Outcome = Outcome.BUILT,
    machine: MachineFate = MachineFate.DESTROYED,
    published: tuple[Published, ...] = (),
    failure: Failure | None = None,
) -> Result:
    return Result(
        target="t",
        outcome=outcome,
        machine=machine,
        machine_name="bo-1-t-1",
        published=tuple(
            PublishedArtifact(destination="dist", name="a", url="dist/a", state=state, reason="why")
            for state in published
        ),
        failure=failure,
    )


results = st.lists(
    st.builds(
        result,
        st.sampled_from(Outcome),
        st.sampled_from(MachineFate),
        st.lists(st.sampled_from(Published), max_size=3).map(tuple),
    ),
    max_size=6,
)


@given(results, st.sampled_from([0, *SIGNALS]), st.booleans())
def test_precedence(rows: list[Result], signum: int, bug: bool) -> None:
    """A leak goes before a signal, that before a bug, that before 1, 3 and 0, in any order."""
    fates = {row.machine for row in rows}
    outcomes = {row.outcome for row in rows}
    states = {one.state for row in rows for one in row.published}
    if MachineFate.LEAKED in fates:
        expected = 5
    elif signum:
        expected = 128 + signum
    elif bug:
        expected = 70
    elif Outcome.FAILED in outcomes or Published.CONFLICT in states:
        expected = 1
    elif outcomes & {Outcome.ENVIRONMENT, Outcome.CANCELLED} or Published.NO in states:
        expected = 3
    else:
        expected = 0
    assert exit_code(rows, signum=signum, bug=bug) == expected
    assert exit_code(reversed(rows), signum=signum, bug=bug) == expected


@given(results)
def test_a_kept_machine_changes_nothing(rows: list[Result]) -> None:
    """A kept machine is no leak and no failure."""
    kept = [result(row.outcome, MachineFate.KEPT) for row in rows]
    gone = [result(row.outcome, MachineFate.DESTROYED) for row in rows]
    assert exit_code(kept) == exit_code(gone)
    assert exit_code(kept) != ExitCode.LEAKED


@given(results)
def test_whatever_is_not_well_is_explained(rows: list[Result]) -> None:
    """A build that keeps the run from 0 has a failure with words, and a good one has none, except
    when only the pipeline knows what went wrong."""
    for row in rows:
        silent = row.outcome in {Outcome.FAILED, Outcome.ENVIRONMENT}
        if not silent:
            assert bool(failures(row, run_id="r")) == (exit_code([row]) != 0)


def test_nothing_built_is_success() -> None:
    """A run without builds did nothing wrong."""
    assert exit_code([]) is ExitCode.OK


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (result(published=(Published.NO,)), "build publish r1"),
        (result(published=(Published.CONFLICT,)), "VERSION"),
        (result(machine=MachineFate.LEAKED), "build sweep"),
    ],
)
def test_advice(row: Result, advice: str) -> None:
    """What went wrong after the build names the command that helps."""
    (failure,) = failures(row, run_id="r1")
    assert advice in failure.resolution


def test_the_pipelines_own_words_win() -> None:
    """What the pipeline explained about a stage is not explained again."""
    own = Failure(stage="publish", brief="the disk of the destination is full")
    row = result(published=(Published.NO,), machine=MachineFate.LEAKED, failure=own)
    assert [failure.stage for failure in failures(row, run_id="r1")] == ["publish", "destroy"]
    assert failures(row, run_id="r1")[0] is own
