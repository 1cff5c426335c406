"""Signals that ask for an end: all of them stop the work as Ctrl-C does, and it tidies up."""

from __future__ import annotations

import contextlib
import signal
from typing import Any, Iterator


class Stopped(KeyboardInterrupt):
    """A signal has asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number

    @property
    def status(self) -> int:
        """What a shell says of who was ended by it: 130 for SIGINT."""
        return 128 + self.number


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """During the block, let signals raise Stopped that would end this process where it stands.

    Who ignores SIGHUP, as nohup does, wants the work to outlive the terminal.
    """
    wanted = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        wanted.append(signal.SIGHUP)
    previous = {each: signal.signal(each, _stop) for each in wanted}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """During the block a signal is only noted, and raises Stopped at its end: a child that is being
    started must first be somebody's."""
    _noted.append(0)
    try:
        yield
    finally:
        number = _noted.pop()
        if number:
            raise Stopped(number)


_noted: list[int] = []
"""The signal that has come during each block above that is going on, or 0."""


def _stop(number: int, _: Any) -> None:
    if not _noted:
        raise Stopped(number)
    _noted[-1] = number
