"""Points in time at which things should stop, and the wish to stop earlier."""

from __future__ import annotations

import os
import select
import time

from build_orchestrator.errors import DeadlineExceeded, Interrupted

URGENT_S = 5.0
"""How long teardown may take after a second signal."""


class Deadline:
    """The end of a stage: created once, handed down, asked for what remains."""

    def __init__(self, stage: str, limit_s: float, waiting_for: str = "") -> None:
        self.stage = stage
        self.limit_s = limit_s
        self.waiting_for = waiting_for or f"{stage} to end"
        self._end = time.monotonic() + limit_s

    @property
    def remaining_s(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.remaining_s <= 0

    def exceeded(self) -> DeadlineExceeded:
        """The error that says which stage waited for what."""
        return DeadlineExceeded(self.stage, self.limit_s, self.waiting_for)

    def check(self) -> None:
        """Raise DeadlineExceeded once the deadline has passed."""
        if self.passed:
            raise self.exceeded()


class Cancel:
    """The wish to stop, set by a signal and seen by every wait.

    Its file descriptor becomes readable at the moment it is set and stays so: a ``select`` wakes up
    at once. There is no lock in it, since a signal may arrive while another one is being handled.
    A second signal makes it ``urgent``: graces are skipped, the journal never is.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._is_set = False
        self.signum = 0
        self.urgent = False

    def fileno(self) -> int:
        return self._read

    def set(self, signum: int) -> None:
        """Ask everything to stop: because of a signal, or (0) of a failure with --fail-fast.

        Safe inside a signal handler.
        """
        if self._is_set:
            self.urgent = bool(self.signum)
            self.signum = self.signum or signum
            return
        self.signum = signum
        self._is_set = True
        os.write(self._write, b"x")

    @property
    def is_set(self) -> bool:
        return self._is_set

    def teardown_s(self, limit_s: float) -> float:
        """How long teardown with this limit may take: after a second signal no grace is left."""
        return min(limit_s, URGENT_S) if self.urgent else limit_s

    def check(self) -> None:
        """Raise Interrupted once somebody asked to stop."""
        if self.is_set:
            raise Interrupted(self.signum)

    def sleep(self, seconds: float) -> None:
        """Sleep, or raise Interrupted as soon as somebody asks to stop."""
        waiting = select.poll()
        waiting.register(self._read, select.POLLIN)
        if waiting.poll(max(seconds, 0) * 1000):  # A negative number would be for ever.
            raise Interrupted(self.signum)


NEVER = Cancel()
"""For work that must not be interrupted, such as teardown."""
