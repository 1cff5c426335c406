"""What happens during a run, as data, and who may listen.

An event is a frozen value that says what happened to which target and when. Observers (the
terminal, ``log.txt``, ``events.jsonl``) turn events into something; they never steer the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from build_orchestrator.model import Result, Stage


def now() -> float:
    """Seconds since the epoch."""
    return time.time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    at: float = field(default_factory=now)
    """Seconds since the epoch."""
    target: str = ""
    """Empty for what concerns the whole run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    run_id: str
    folder: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    stage: Stage
    attempt: int
    limit_s: float
    waiting_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded(Event):
    stage: Stage
    attempt: int
    seconds: float
    failed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(Event):
    """The script printed ``::phase NAME``."""

    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLine(Event):
    """One line of the script, or of a tool that works for this target, secrets masked."""

    text: str
    """Without its newline; bytes that are not UTF-8 are replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Event):
    """Something worth telling a person that is neither output nor failure."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned(Event):
    """Something a person should look at."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """An attempt failed for environmental reasons and another one follows on a new machine."""

    attempt: int
    stage: Stage
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildEnded(Event):
    result: Result


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    exit_code: int
    seconds: float


class Observer(Protocol):
    """Whoever listens. Called from several threads at once; must not raise."""

    def __call__(self, event: Event) -> None: ...


class Observers:
    """Hands each event to all of its listeners, in order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = tuple(observers)

    def __call__(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)


def nobody(event: Event) -> None:
    """The observer that does not care."""
