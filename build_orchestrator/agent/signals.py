"""Signals that ask for an end: all of them stop the work as Ctrl-C does, and it tidies up."""

from __future__ import annotations

import contextlib
import signal
from typing import Any, Iterator, NoReturn


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

    Who ignores one, as nohup does, goes on ignoring it.
    """
    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    wanted = [each for each in numbers if signal.getsignal(each) is not signal.SIG_IGN]
    previous = {each: signal.signal(each, _stop) for each in wanted}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


def _stop(number: int, _: Any) -> NoReturn:
    raise Stopped(number)
