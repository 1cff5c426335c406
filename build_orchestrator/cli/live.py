"""What a person sees while a run goes on.

On a terminal: every line with its target in front, in the target's colour, cut to the width; and
below them a board with a row for each stage that has taken over two seconds. The lines are drawn
ten times a second by a thread of their own, so that a slow terminal never slows a build; what a
flood of output leaves no room for is counted, and is in the logs.

In a pipe or in CI: whole lines without escape sequences, written as they come and never dropped,
and a sign of life for a stage that has said nothing for 30 seconds.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TextIO

from build_orchestrator.events import (
    AttemptFailed,
    BuildEnded,
    Event,
    Note,
    Observer,
    OutputLine,
    PhaseStarted,
    RunEnded,
    RunStarted,
    StageEnded,
    StageStarted,
    Warned,
    now,
)
from build_orchestrator.model import Stage
from build_orchestrator.report.characters import harmless
from build_orchestrator.sinks import spoken

QUIET = -1
NORMAL = 0
VERBOSE = 1

SHOWN_AFTER_S = 2.0
"""A stage gets its row on the board after this long."""
HEARTBEAT_S = 30.0
FRAME_S = 0.1
CLOCK_S = 1.0
"""How often the board's clocks move, and silence is looked for."""
MOST_PENDING = 2000
"""Lines that wait for the next frame; of more, the oldest are dropped from the terminal."""

MOST_CHARACTERS = 10_000
"""Of a longer line only the beginning is looked at, since a terminal shows still less."""

COLOURS = (36, 35, 33, 34, 32, 96, 95, 93, 94, 92)
BAD = 31
ERASE_BELOW = "\x1b[J"


@contextlib.contextmanager
def live_observer(
    stream: TextIO,
    *,
    verbosity: int = NORMAL,
    columns: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Iterator[Observer]:
    """Show a run on a stream, usually standard error, until the block is left.

    Args:
        verbosity: below 0 only stage ends, warnings and results; above 0 notes and commands, too.
        columns: width of the terminal; None asks it before each frame. In a pipe nothing is cut.
        environ: NO_COLOR, TERM=dumb and CI are honoured.
    """
    fancy = _is_terminal(stream, environ)
    show: _Lines = (
        _Terminal(stream, verbosity, colour=not environ.get("NO_COLOR"), columns=columns)
        if fancy
        else _Lines(stream, verbosity)
    )
    show.start()
    try:
        yield show
    finally:
        show.stop()


def _is_terminal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is a terminal with somebody in front of it, and with a cursor."""
    in_ci = environ.get("CI", "").lower() not in {"", "0", "false"}
    return stream.isatty() and not in_ci and environ.get("TERM", "") not in {"", "dumb"}


def is_shown(event: Event, verbosity: int) -> bool:
    """Whether a person who asked for this much wants to see this event as a line."""
    match event:
        case StageEnded(stage=Stage.QUEUE) | StageStarted(stage=Stage.QUEUE) | RunEnded():
            return False
        case StageEnded() | AttemptFailed() | Warned() | BuildEnded():
            return True
        case Note():
            return verbosity > NORMAL
        case _:
            return verbosity >= NORMAL


@dataclass(slots=True)
class _Running:
    """A stage that has begun and not ended."""

    stage: Stage
    since: float
    limit_s: float
    waiting_for: str
    heard_at: float


class Stages:
    """Which stages are running, and since when. Times are seconds since the epoch."""

    def __init__(self) -> None:
        self.targets: tuple[str, ...] = ()
        self._running: dict[str, _Running] = {}
        self._ended = 0

    def see(self, event: Event) -> None:
        """Take an event into account."""
        running = self._running.get(event.target)
        match event:
            case RunStarted(targets=targets):
                self.targets = targets
            case StageStarted(stage=stage, limit_s=limit_s, waiting_for=waiting_for, at=at):
                self._running[event.target] = _Running(stage, at, limit_s, waiting_for, at)
            case StageEnded() | AttemptFailed():
                self._running.pop(event.target, None)
            case BuildEnded():
                self._running.pop(event.target, None)
                self._ended += 1
            case PhaseStarted(phase=phase) if running is not None:
                running.waiting_for = f"phase {phase}"
                running.heard_at = event.at
            case OutputLine() if running is not None:
                running.heard_at = event.at

    def rows(self, at: float, *, most: int) -> list[str]:
        """The board at a point in time: what takes long, oldest first, and how far we are."""
        busy = [
            (target, running)
            for target, running in self._running.items()
            if running.stage is not Stage.QUEUE and at - running.since >= SHOWN_AFTER_S
        ]
        if not busy or most < 1:
            return []
        width = max(len(target) for target, _ in busy)
        rows = [
            f"{target:<{width}}  {running.stage:<9}  {_clock(at - running.since)} / "
            f"{_clock(running.limit_s)}  {running.waiting_for}".rstrip()
            for target, running in busy
        ]
        count = len(self.targets)
        last = [f"{self._ended} of {count} targets done"] if count > 1 else []
        room = max(1, most - len(last))
        if len(rows) > room:
            hidden = len(rows) - room + 1
            rows[room - 1 :] = [f"... and {hidden} more"]
        return (rows + last)[:most]

    def silent(self, at: float) -> list[tuple[str, str]]:
        """Each target whose stage has said nothing for too long, with words for it.

        A stage that was told of counts as heard.
        """
        found = []
        for target, running in self._running.items():
            if running.stage is Stage.QUEUE or at - running.heard_at < HEARTBEAT_S:
                continue
            running.heard_at = at
            wait = f", waiting for {running.waiting_for}" if running.waiting_for else ""
            elapsed = _clock(at - running.since)
            found.append((target, f"{running.stage} {elapsed} / {_clock(running.limit_s)}{wait}"))
        return found


def _clock(seconds: float) -> str:
    """``1:02``, or ``1:02:03`` from an hour on."""
    whole = max(0, int(seconds))
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


class _Lines:
    """The observer for pipes and CI: whole lines as they come."""

    def __init__(self, stream: TextIO, verbosity: int) -> None:
        self._stream = stream
        self._verbosity = verbosity
        self._stages = Stages()
        # Reentrant: a signal handler on this thread may have something to say, too.
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Show what is left and stop. A terminal that takes nothing is not waited for."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(timeout=2.0)
        if not self._thread.is_alive():
            self._finish()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._stages.see(event)
            if is_shown(event, self._verbosity):
                mark, text = spoken(event)
                for line in text.split("\n"):
                    self._say(event.target, mark, line)

    def _say(self, target: str, mark: str, text: str) -> None:
        self._write(f"{self._prefix(target, mark)}{harmless(text)}\n")

    def _prefix(self, target: str, mark: str) -> str:
        if not target:
            return ""
        width = max((len(name) for name in self._stages.targets), default=0)
        return f"{target:<{width}} {mark} "

    def _write(self, text: str) -> None:
        """Write in one piece; a stream that is gone or full must not end the run."""
        encoding = self._stream.encoding or "utf-8"
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()

    def _work(self) -> None:
        """What the thread does: give signs of life until we stop."""
        while not self._stopped.wait(CLOCK_S):
            with self._lock:
                if self._verbosity >= NORMAL:
                    for target, text in self._stages.silent(now()):
                        self._say(target, "=", text)

    def _finish(self) -> None:
        """Nothing is pending here."""


class _Terminal(_Lines):
    """The observer for a person at a terminal: coloured lines, and the board below them."""

    def __init__(
        self, stream: TextIO, verbosity: int, *, colour: bool, columns: int | None
    ) -> None:
        super().__init__(stream, verbosity)
        self._colour = colour
        self._columns = columns
        self._pending: deque[str] = deque()
        self._dropped = 0
        self._board: list[str] = []
        self._colours: dict[str, int] = {}

    def _say(self, target: str, mark: str, text: str) -> None:
        prefix = self._prefix(target, mark)
        width = self._size().columns - 1  # The last column would wrap on some terminals.
        line = _cut(prefix + harmless(text[:MOST_CHARACTERS]), width)
        if self._colour:
            head, body = line[: len(prefix)], line[len(prefix) :]
            if target:
                count = len(self._colours)
                tint = self._colours.setdefault(target, COLOURS[count % len(COLOURS)])
                head = f"\x1b[{tint}m{head}\x1b[0m"
            line = f"{head}\x1b[{BAD}m{body}\x1b[0m" if mark == "!" else head + body
        if len(self._pending) >= MOST_PENDING:
            self._pending.popleft()
            self._dropped += 1
        self._pending.append(line)
        self._wake.set()

    def _work(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(CLOCK_S)
            self._wake.clear()
            self._draw(board=self._verbosity >= NORMAL)
            self._stopped.wait(FRAME_S)

    def _finish(self) -> None:
        self._draw(board=False)

    def _draw(self, *, board: bool) -> None:
        """Put the pending lines where the board was, and the board below them, in one write.

        The write happens outside the lock: a terminal that is held (Ctrl-S) holds up nobody.
        """
        with self._lock:
            lines, self._pending = list(self._pending), deque()
            dropped, self._dropped = self._dropped, 0
            size = self._size()
            rows = self._stages.rows(now(), most=size.lines // 2) if board else []
        rows = [_cut(row, size.columns - 1) for row in rows]
        if not lines and rows == self._board:
            return
        if dropped:
            lines.insert(0, f"({dropped} lines are not shown here; the logs have them)")
        erase = f"\x1b[{len(self._board)}F{ERASE_BELOW}" if self._board else ""
        self._board = rows
        dim, normal = ("\x1b[2m", "\x1b[0m") if self._colour else ("", "")
        self._write(
            erase
            + "".join(f"{line}\n" for line in lines)
            + "".join(f"{dim}{row}{normal}\n" for row in rows)
        )

    def _size(self) -> os.terminal_size:
        """Columns and lines of the terminal; 80 by 24 where it does not know."""
        try:
            columns, lines = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns, lines = 0, 0
        return os.terminal_size((self._columns or columns or 80, lines or 24))


def _cut(text: str, width: int) -> str:
    """The text without what does not fit into this many terminal cells."""
    if text.isascii():
        return text[:width]
    from rich.cells import cell_len, set_cell_size

    text = text[: 4 * width]  # More than four characters in one cell is noise.
    return text if cell_len(text) <= width else set_cell_size(text, width)
