"""Observers that write a run down: ``events.jsonl``, each target's ``log.txt``, the last lines.

They are called from many threads and never raise into the run. When a write fails (a full disk) one
warning goes to the callback, the run goes on, and so do the writes once there is room again.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from build_orchestrator.events import (
    AttemptFailed,
    BuildEnded,
    Event,
    Note,
    OutputLine,
    PhaseStarted,
    RunEnded,
    RunStarted,
    StageEnded,
    StageStarted,
    Warned,
)
from build_orchestrator.model import MachineFate, Outcome, Published, Result

LOG = "log.txt"
TAIL_CHARACTERS = 1000
"""A longer line is cut in the tail: it is for error messages, and the log has all of it."""

Warn = Callable[[str], None]


def timestamp(at: float) -> str:
    """Seconds since the epoch as ``2026-11-21T01:45:00.123Z``."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def spoken(event: Event) -> tuple[str, str]:
    """An event for a person: a mark and the words.

    Marks: ``|`` output, ``=`` progress, ``.`` note, ``!`` warning.
    """
    match event:
        case OutputLine(text=text):
            return "|", text
        case Note(text=text):
            return ".", text
        case Warned(text=text):
            return "!", text
        case PhaseStarted(phase=phase):
            return "=", f"phase {phase}"
        case StageStarted(stage=stage, attempt=attempt, limit_s=limit_s, waiting_for=waiting_for):
            again = f", attempt {attempt}" if attempt > 1 else ""
            wait = f", waiting for {waiting_for}" if waiting_for else ""
            return "=", f"{stage} started{again}, limit {limit_s:g} s{wait}"
        case StageEnded(stage=stage, seconds=seconds, failed=failed):
            return "!" if failed else "=", (
                f"{stage} {'failed' if failed else 'done'} after {seconds:.1f} s"
            )
        case AttemptFailed(attempt=attempt, stage=stage, reason=reason):
            return "!", f"attempt {attempt} failed in {stage}: {reason}; another machine follows"
        case BuildEnded(result=result):
            return "=" if _is_well(result) else "!", result_line(result)
        case RunStarted(run_id=run_id, targets=targets, folder=folder):
            count = len(targets)
            return "=", f"run {run_id}: {count} target{'s' if count != 1 else ''}, {folder}"
        case RunEnded(exit_code=status, seconds=seconds):
            return "=", f"run ended after {seconds:.1f} s with exit code {status}"
        case _:
            return ".", event_name(event).replace("_", " ")


def result_line(result: Result) -> str:
    """One line about one build, such as ``built; machine destroyed; published: yes``."""
    parts = [str(result.outcome)]
    if result.failure is not None:
        parts[0] += f" in {result.failure.stage}: {result.failure.brief}"
    if result.machine is not MachineFate.NONE:
        until = f" until {result.kept_until}" if result.kept_until else ""
        parts.append(f"machine {result.machine}{until}")
    if result.published:
        states = dict.fromkeys(str(one.state) for one in result.published)
        parts.append(f"published: {', '.join(states)}")
    return "; ".join(parts)


def _is_well(result: Result) -> bool:
    done = result.outcome in {Outcome.BUILT, Outcome.UNCHANGED}
    everywhere = all(one.state is Published.YES for one in result.published)
    return done and everywhere and result.machine is not MachineFate.LEAKED


def event_name(event: Event) -> str:
    """``stage_started`` for a StageStarted."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def encoded(event: Event) -> bytes:
    """An event as one line of JSON, with its newline."""
    import msgspec

    fields = msgspec.to_builtins(event)
    record = {"event": event_name(event), "at": timestamp(fields.pop("at")), **fields}
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=False)
    return text.encode(errors="replace") + b"\n"


class EventLog:
    """Writes every event as one JSON object per line, appended to a file or a binary stream.

    Args:
        destination: a path, or an open stream such as ``sys.stdout.buffer``, which stays open.
        warn: called once, when a write failed.
    """

    def __init__(self, destination: Path | BinaryIO, *, warn: Warn) -> None:
        self._file = _File(destination)
        self._warn = _Once(warn)

    def __call__(self, event: Event) -> None:
        try:
            self._file.write(encoded(event))
        except (OSError, ValueError) as error:
            self._warn(f"events are not written down: {error}")

    def close(self) -> None:
        self._file.close()


class TargetLogs:
    """Writes ``<folder>/<target>/log.txt``: what each target said and what happened to it.

    A line is ``<time> <mark> <text>``, so ``grep ' | '`` shows the output alone. Its bytes are at
    once visible to ``tail -f``.
    """

    def __init__(self, folder: Path, *, warn: Warn) -> None:
        self._folder = folder
        self._warn = _Once(warn)
        self._files: dict[str, _File] = {}
        self._lock = threading.RLock()

    def path(self, target: str) -> Path:
        """Where the log of a target is."""
        return self._folder / target / LOG

    def __call__(self, event: Event) -> None:
        if not event.target:
            return
        mark, text = spoken(event)
        head = f"{timestamp(event.at)} {mark} "
        body = "\n".join(head + line for line in text.split("\n")) + "\n"
        try:
            self._file(event.target).write(body.encode(errors="replace"))
        except (OSError, ValueError) as error:
            self._warn(f"{self.path(event.target)} is incomplete: {error}")
        if isinstance(event, BuildEnded):
            self._close(event.target)

    def close(self) -> None:
        for target in list(self._files):
            self._close(target)

    def _file(self, target: str) -> _File:
        with self._lock:
            if target not in self._files:
                self._files[target] = _File(self.path(target))
            return self._files[target]

    def _close(self, target: str) -> None:
        with self._lock:
            file = self._files.pop(target, None)
        if file is not None:
            file.close()


class Tail:
    """Keeps the last lines that each target said in its current attempt, for error messages."""

    def __init__(self, n: int = 20) -> None:
        self._n = n
        self._lines: dict[str, deque[str]] = {}
        self._lock = threading.RLock()

    def __call__(self, event: Event) -> None:
        if isinstance(event, AttemptFailed):
            with self._lock:
                self._lines.pop(event.target, None)
        elif isinstance(event, OutputLine):
            cut = event.text[:TAIL_CHARACTERS]
            text = cut if len(cut) == len(event.text) else f"{cut}..."
            with self._lock:
                self._lines.setdefault(event.target, deque(maxlen=self._n)).append(text)

    def lines(self, target: str) -> tuple[str, ...]:
        """The last lines of one target, oldest first."""
        with self._lock:
            return tuple(self._lines.get(target, ()))


class _File:
    """Appends whole lines, opened at the first one. After a torn write the next starts anew."""

    def __init__(self, destination: Path | BinaryIO) -> None:
        self._path = destination if isinstance(destination, Path) else None
        self._stream = destination if not isinstance(destination, Path) else None
        self._torn = False
        # Reentrant: a signal handler on this thread may have something to say, too.
        self._lock = threading.RLock()

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._stream is None:
                self._stream = self._open()
            view = memoryview(b"\n" + data if self._torn else data)
            while view:
                written = self._stream.write(view)
                if not written:  # An unbuffered stream that does not block says so like this.
                    raise BlockingIOError("nobody takes what is written")
                self._torn = True
                view = view[written:]
            self._stream.flush()
            self._torn = False

    def close(self) -> None:
        with self._lock:
            if self._path is not None and self._stream is not None:
                with contextlib.suppress(OSError):
                    self._stream.close()
                self._stream = None

    def _open(self) -> BinaryIO:
        assert self._path is not None, "a stream that was given is open"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("ab", buffering=0)


class _Once:
    """Hands on the first message only, and never raises."""

    def __init__(self, warn: Warn) -> None:
        self._warn = warn
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        if self._lock.acquire(blocking=False):  # Never released: that is the once.
            with contextlib.suppress(OSError, ValueError):
                self._warn(text)
