"""What every build of one run shares, and what becomes known while one build goes on."""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from build_orchestrator import events
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.events import Observer
from build_orchestrator.journal import Journal
from build_orchestrator.locks import Lock
from build_orchestrator.machine.contract import Provider
from build_orchestrator.masking import Masker
from build_orchestrator.model import Artifact, Keep, MachineFate, Plan, Stage
from build_orchestrator.pipeline.meter import Meter


class StartFrom(enum.StrEnum):
    """Which image a build starts from."""

    BAKED = "baked"
    """A fresh baked one, or else the base image."""
    BAKED_NOW = "baked now"
    """A baked one, which is made first where there is none."""
    BAKED_ONLY = "baked only"
    BASE = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run is to be done; none of it changes what comes out."""

    keep: Keep = Keep.NEVER
    keep_for_s: float = 4 * 3600
    cold: bool = False
    fail_fast: bool = False
    start_from: StartFrom = StartFrom.BAKED
    force: bool = False
    """Build or bake also what is there already."""
    s3_endpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One invocation."""

    plan: Plan
    folder: Path
    """``runs/<run id>``."""
    journal: Journal
    observer: Observer
    cancel: Cancel
    settings: Settings
    provider: Callable[[str], Provider]
    """The provider with this name."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    collected: Callable[[str], tuple[Artifact, ...]] = lambda _: ()
    """What an earlier run has collected for a build key, and has whole."""
    masker: Masker = field(default_factory=Masker)
    """Hides them. What a script writes comes back in errors, too: in names of files, say."""
    held: list[Lock] = field(default_factory=list)
    """Of images that the run has resolved, so that nobody removes them before it is over."""
    bugs: list[BaseException] = field(default_factory=list)
    """What escaped from a build and is no error of the error tree."""

    def folder_of(self, target: str) -> Path:
        """``runs/<run id>/<target>``, made where it is missing."""
        folder = self.folder / target
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(slots=True, kw_only=True)
class Record:
    """What becomes known of one build, over all its attempts."""

    target: str
    observer: Observer
    attempt: int = 0
    stage: Stage = Stage.QUEUE
    stages_s: dict[str, float] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)
    fate: MachineFate = MachineFate.NONE
    machine_name: str = ""
    kept_until: float = 0.0
    start: str = ""
    host_key: str = ""
    rule: str = ""
    leak: OrchestratorError | None = None
    meter: Meter = field(default_factory=Meter)

    @contextlib.contextmanager
    def during(self, stage: Stage, limit_s: float, waiting_for: str = "") -> Iterator[Deadline]:
        """A stage: announced, limited, timed, and remembered as where it went wrong."""
        self.stage = stage
        started = time.monotonic()
        self.tell(
            events.StageStarted(
                target=self.target,
                stage=stage,
                attempt=self.attempt,
                limit_s=limit_s,
                waiting_for=waiting_for,
            )
        )
        failed = True
        try:
            yield Deadline(stage, limit_s, waiting_for)
            failed = False
        finally:
            seconds = time.monotonic() - started
            self.stages_s[stage] = self.stages_s.get(stage, 0.0) + seconds
            self.tell(
                events.StageEnded(
                    target=self.target,
                    stage=stage,
                    attempt=self.attempt,
                    seconds=seconds,
                    failed=failed,
                )
            )

    def tell(self, event: events.Event) -> None:
        self.observer(event)

    def settle(self, fate: MachineFate, name: str) -> None:
        """What became of a machine; a leaked one is never covered by a later attempt's."""
        self.meter.stop(name)
        if self.fate is not MachineFate.LEAKED:
            self.fate, self.machine_name = fate, name
