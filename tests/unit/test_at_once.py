"""Many at once: results in order, and no signal goes unheard."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from build_orchestrator.pipeline.at_once import at_once


def test_results_are_in_the_order_of_the_items() -> None:
    assert at_once(str, range(5), jobs=3) == ["0", "1", "2", "3", "4"]


def test_what_one_raises_is_raised_once_all_have_ended() -> None:
    ended = []

    def one(item: int) -> None:
        if not item:
            raise ZeroDivisionError
        ended.append(item)

    with pytest.raises(ZeroDivisionError):
        at_once(one, range(3), jobs=1)
    assert ended == [1, 2]


def test_a_signal_is_handled_though_the_main_thread_waits() -> None:
    """Here the kernel gives it to another thread: as little of it as of one that comes a moment
    too early wakes the main one."""
    heard = threading.Event()
    previous = signal.signal(signal.SIGUSR1, lambda *_: heard.set())

    def one(_: int) -> bool:
        time.sleep(0.3)  # By then the main thread waits.
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        return heard.wait(5)

    try:
        assert at_once(one, range(1), jobs=1) == [True]
    finally:
        signal.signal(signal.SIGUSR1, previous)
