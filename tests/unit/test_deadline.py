"""Points in time at which things stop, and the wish to stop earlier."""

from __future__ import annotations

import select
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

import click
import pytest

from build_orchestrator.cli.project import DURATION
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import DeadlineExceeded, ExitCode, Interrupted


def test_time_runs_down_to_zero_and_no_further() -> None:
    """What remains is never negative, so it may be handed to any wait."""
    long, over = Deadline("boot", 100), Deadline("boot", 0)
    assert 99 < long.remaining_s <= 100
    assert (over.remaining_s, over.passed, long.passed) == (0.0, True, False)


def test_check_raises_only_when_time_is_up() -> None:
    """A deadline that has not passed lets everything go on."""
    Deadline("boot", 100).check()
    with pytest.raises(DeadlineExceeded):
        Deadline("boot", 0).check()


def test_the_error_says_stage_limit_and_what_was_awaited() -> None:
    """A person reads which setting to raise."""
    error = Deadline("collect", 1.5, "the outputs to arrive").exceeded()
    assert (error.stage, error.limit_s) == ("collect", 1.5)
    assert "1.5 s" in error.brief
    assert "the outputs to arrive" in error.details
    assert "deadlines.collect_s" in error.resolution


def test_a_wish_to_stop_wakes_every_wait() -> None:
    """Sleep, check and select all see it, at once and from then on."""
    cancel = Cancel()
    assert not select.select([cancel], [], [], 0)[0]
    timer = threading.Timer(0.01, cancel.set, [signal.SIGTERM])
    timer.start()
    started = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        cancel.sleep(50)
    timer.join()
    assert time.monotonic() - started < 5
    assert caught.value.exit_code is ExitCode.TERMINATED
    assert select.select([cancel], [], [], 0)[0]
    with pytest.raises(Interrupted):
        cancel.check()


@pytest.mark.parametrize(
    ("signals", "signum", "urgent"),
    [
        ([], 0, False),
        ([signal.SIGINT], signal.SIGINT, False),
        ([signal.SIGINT, signal.SIGINT], signal.SIGINT, True),
        ([signal.SIGHUP, signal.SIGTERM], signal.SIGHUP, True),
        ([0], 0, False),
        ([0, signal.SIGINT], signal.SIGINT, False),
        ([0, signal.SIGINT, signal.SIGINT], signal.SIGINT, True),
    ],
)
def test_only_a_second_signal_is_urgent(signals: list[int], signum: int, urgent: bool) -> None:
    """The first signal counts; a failure with --fail-fast is none; the second skips graces."""
    cancel = Cancel()
    for number in signals:
        cancel.set(number)
    assert (cancel.signum, cancel.urgent, cancel.is_set) == (signum, urgent, bool(signals))
    assert (cancel.teardown_s(60), cancel.teardown_s(2)) == (5 if urgent else 60, 2)


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143), (0, 1)]
)
def test_each_signal_has_its_exit_code(signum: int, code: int) -> None:
    """As a shell would say it."""
    assert Interrupted(signum).exit_code == code


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("30m", 1800), ("4h", 14400), ("1d", 86400)],
)
def test_times_are_read(text: str, seconds: float) -> None:
    """Seconds, or a number with its unit."""
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text", ["", "h", "-5", "0", "4 hours", "1h30m", "nan", "inf", "1e9", "infd", "m4", "5y"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """A time that cannot be meant is a usage error, with examples."""
    with pytest.raises(click.BadParameter, match="90s, 30m, 4h, 1d"):
        DURATION.convert(text, None, None)


def test_setting_it_often_never_blocks() -> None:
    """A signal handler that runs ten thousand times fills no pipe."""
    cancel = Cancel()
    for _ in range(10_000):
        cancel.set(signal.SIGINT)
    assert cancel.urgent


def interrupted_at(step: int) -> None:
    """Set a Cancel, and set it once more before that line of the first call which is the nth."""
    cancel, steps = Cancel(), iter(range(1000))

    def trace(_frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and next(steps) == step:
            cancel.set(signal.SIGINT)
        return trace

    sys.settrace(trace)
    cancel.set(signal.SIGINT)
    sys.settrace(None)
    assert (cancel.is_set, cancel.signum) == (True, signal.SIGINT)
    with pytest.raises(Interrupted):
        cancel.sleep(50)


@pytest.mark.parametrize("step", range(12))
def test_a_signal_inside_the_handler_of_a_signal_hangs_nothing(step: int) -> None:
    """Two signals at once nest their handlers at any line: a lock would wait for itself."""
    thread = threading.Thread(target=interrupted_at, args=[step], daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
