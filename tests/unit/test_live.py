"""What a person sees: a board on a real terminal, plain lines in a pipe."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from build_orchestrator.cli import live
from build_orchestrator.cli.live import Stages, is_shown, live_observer
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
from build_orchestrator.model import Failure, MachineFate, Outcome, Result, Stage

ROOT = Path(__file__).parents[2]
TERMINAL = {"TERM": "xterm-256color"}
PATIENCE_S = 10.0
"""For the drawing thread; what is waited for comes within a tenth of a second."""


def started(target: str, ago_s: float, stage: Stage = Stage.BOOT) -> StageStarted:
    return StageStarted(
        at=time.time() - ago_s,
        target=target,
        stage=stage,
        attempt=1,
        limit_s=300,
        waiting_for="ssh to answer",
    )


def ended(target: str, stage: Stage = Stage.BOOT) -> StageEnded:
    return StageEnded(target=target, stage=stage, attempt=1, seconds=2.5)


def run_of(*targets: str) -> RunStarted:
    return RunStarted(run_id="r1", folder="runs/r1", targets=targets)


BAD = Result(
    target="a",
    outcome=Outcome.FAILED,
    machine=MachineFate.DESTROYED,
    failure=Failure(stage="provision", brief="status 7"),
)


# --- a pipe -------------------------------------------------------------------------------------


class Pipe:
    """A real pipe, and a thread that reads it."""

    def __init__(self) -> None:
        self._read, write = os.pipe()
        self.stream: io.TextIOWrapper = os.fdopen(write, "w", encoding="utf-8")
        self._arrived: list[bytes] = []
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self) -> None:
        while chunk := os.read(self._read, 1 << 16):
            self._arrived.append(chunk)
        os.close(self._read)

    @property
    def so_far(self) -> str:
        return b"".join(self._arrived).decode(errors="replace")

    def close(self) -> None:
        self.stream.close()
        self._thread.join()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe that somebody reads."""
    one = Pipe()
    yield one
    one.close()


def piped(*events: Event, verbosity: int = 0) -> str:
    """What these events look like in a pipe."""
    pipe = Pipe()
    with live_observer(pipe.stream, verbosity=verbosity, columns=20, environ=TERMINAL) as observe:
        for event in events:
            observe(event)
    pipe.close()
    return pipe.so_far


def wait_for(condition: Callable[[], bool]) -> None:
    """Look again and again until something is so, for the benefit of another thread."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "this never came"
        select.select([], [], [], 0.001)


def test_pipe_has_prefixed_plain_lines() -> None:
    """In a pipe each line has its target, whole, and nothing that steers a terminal."""
    text = piped(
        run_of("debian_bookworm_qemu", "b"),
        OutputLine(target="b", text="\x1b[31mred\x1b[0m and long, far beyond twenty columns"),
        started("b", 0),
        ended("b"),
        BuildEnded(target="b", result=BAD),
    )
    assert text.splitlines() == [
        "run r1: 2 targets, runs/r1",
        "b                    | red and long, far beyond twenty columns",
        "b                    = boot started, limit 300 s, waiting for ssh to answer",
        "b                    = boot done after 2.5 s",
        "b                    ! failed in provision: status 7; machine destroyed",
    ]


EVENTS: list[Event] = [
    run_of("a"),
    started("a", 0),
    OutputLine(target="a", text="output"),
    PhaseStarted(target="a", phase="install"),
    Note(target="a", text="note"),
    Warned(target="a", text="warning"),
    AttemptFailed(target="a", attempt=1, stage=Stage.BOOT, reason="reason"),
    ended("a"),
    ended("a", Stage.QUEUE),
    started("a", 0, Stage.QUEUE),
    BuildEnded(target="a", result=BAD),
    RunEnded(exit_code=0, seconds=1),
]


@pytest.mark.parametrize(
    ("verbosity", "hidden"),
    [
        (-1, {"run", "started", "output", "phase", "note"}),
        (0, {"note"}),
        (1, set[str]()),
    ],
)
def test_verbosity(verbosity: int, hidden: set[str]) -> None:
    """Quiet shows stage ends, warnings and results; verbose adds notes."""
    text = piped(*EVENTS, verbosity=verbosity)
    words = {"run r1", "started", "output", "phase", "note", "warning", "reason", "done", "failed"}
    assert {word for word in words if word not in text} == {
        "run r1" if word == "run" else word for word in hidden
    }
    assert "queue" not in text
    assert sum(is_shown(event, verbosity) for event in EVENTS) == len(text.splitlines())


def test_heartbeat(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that says nothing for half a minute gets a sign of life, with what is waited for."""
    monkeypatch.setattr(live, "CLOCK_S", 0.01)
    with live_observer(pipe.stream, environ={}) as observe:
        observe(run_of("a", "b"))
        observe(started("b", 42))
        observe(OutputLine(target="b", text="busy"))
        observe(started("a", 42))
        wait_for(lambda: "a = boot 0:4" in pipe.so_far)
    pipe.close()
    beats = [re.sub("0:4.", "0:4?", line) for line in pipe.so_far.splitlines() if " 0:4" in line]
    assert beats == ["a = boot 0:4? / 5:00, waiting for ssh to answer"]


def test_quiet_has_no_heartbeat(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asked for quiet gets no signs of life."""
    monkeypatch.setattr(live, "CLOCK_S", 0.0)
    with live_observer(pipe.stream, verbosity=-1, environ={}) as observe:
        observe(started("a", 42))
        for _ in range(100):
            observe(OutputLine(at=0, target="a", text="still"))
    pipe.close()
    assert pipe.so_far == ""


class Halting(io.TextIOWrapper):
    """A stream that stops in the middle of what it is given, so that others could come between."""

    def write(self, text: str) -> int:
        for half in (text[:10], text[10:]):
            super().write(half)
            self.flush()
            select.select([], [], [], 0)
        return len(text)


def test_threads_tear_no_line(pipe: Pipe) -> None:
    """A hundred chatty targets in as many threads: every line arrives, whole."""
    stream = Halting(pipe.stream.detach(), encoding="utf-8")
    pipe.stream = stream
    targets = [f"target{n:02d}" for n in range(100)]

    def talk(target: str) -> None:
        for n in range(20):
            observe(OutputLine(target=target, text=f"{n} {target * 200}."))

    with live_observer(pipe.stream, environ={}) as observe:
        observe(run_of(*targets))
        threads = [threading.Thread(target=talk, args=(target,)) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    pipe.close()
    lines = pipe.so_far.splitlines()[1:]
    assert len(lines) == 2000
    assert all(re.fullmatch(rf"(\w+) \| \d+ {line[:8] * 200}\.", line) for line in lines)


def test_a_reader_that_left_does_not_stop_the_run() -> None:
    """Where nobody reads any more, events go nowhere and nothing is raised."""
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    with live_observer(stream, columns=None, environ={}) as observe:
        for _ in range(3):
            observe(OutputLine(target="a", text="x"))
    # What is buffered cannot be written, and the test's own close must not complain of it.
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_stream_without_the_characters() -> None:
    """An ASCII stream gets replacements instead of an error."""
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    with live_observer(stream, columns=None, environ={}) as observe:
        observe(OutputLine(target="a", text="größe"))
    assert buffer.getvalue() == b"a | gr??e\n"


# --- a terminal ---------------------------------------------------------------------------------


class Terminal:
    """A real pseudo-terminal and the screen that a person would see."""

    def __init__(self, columns: int = 60, lines: int = 24) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.raw = ""

    def read(self) -> None:
        """Take in what has arrived."""
        while select.select([self._master], [], [], 0)[0]:
            self.raw += os.read(self._master, 1 << 16).decode(errors="replace")

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until the screen is as expected."""

        def holds() -> bool:
            self.read()
            return condition()

        wait_for(holds)

    @property
    def screen(self) -> list[str]:
        """The lines that would be seen, without colours: cursor moves up and erasure are obeyed."""
        rows = [""]
        at = 0
        plain = re.sub(r"\x1b\[[0-9;]*m", "", self.raw)
        for piece in re.split(r"(\r\n|\x1b\[\d+F|\x1b\[J)", plain):
            if piece == "\r\n":
                at += 1
                if at == len(rows):
                    rows.append("")
            elif piece == "\x1b[J":
                rows = [*rows[:at], ""]
            elif move := re.fullmatch(r"\x1b\[(\d+)F", piece):
                at -= int(move[1])
            else:
                rows[at] += piece
        return rows[:-1]

    def shows(self, words: str) -> bool:
        return any(words in line for line in self.screen)

    def close(self) -> None:
        self.stream.close()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A pseudo-terminal of 60 columns and 24 lines."""
    one = Terminal()
    yield one
    one.close()


def test_terminal_has_coloured_cut_lines(terminal: Terminal) -> None:
    """On a terminal a line has its target's colour, is cut, and cannot steer the terminal."""
    with live_observer(terminal.stream, environ=TERMINAL) as observe:
        observe(run_of("a", "b"))
        observe(OutputLine(target="a", text="\x1b[2Jx" + "y" * 10_000_000))
        observe(OutputLine(target="b", text="日本" * 100))
        observe(Warned(target="b", text="look"))
    terminal.read()
    assert terminal.screen == [
        "run r1: 2 targets, runs/r1",
        "a | x" + "y" * 54,
        "b | " + "日本" * 13 + "日 ",
        "b ! look",
    ]
    assert "\x1b[36ma | \x1b[0mx" in terminal.raw
    assert "\x1b[35mb ! \x1b[0m\x1b[31mlook\x1b[0m" in terminal.raw
    assert "\x1b[2J" not in terminal.raw


def test_board_shows_what_takes_long(terminal: Terminal) -> None:
    """A stage that takes over two seconds has a row below the lines, until it ends."""
    with live_observer(terminal.stream, environ=TERMINAL) as observe:
        observe(run_of("a", "b"))
        observe(started("a", 62))
        observe(started("b", -60))
        terminal.until(lambda: terminal.shows("0 of 2 targets done"))
        assert re.sub("1:0.", "1:0?", terminal.screen[-2]) == (
            "a  boot       1:0? / 5:00  ssh to answer"
        )
        assert not any(line.startswith("b  boot") for line in terminal.screen)
        observe(OutputLine(target="b", text="a line goes above the board"))
        terminal.until(lambda: "b | a line goes above the board" in terminal.screen)
        assert terminal.screen[-1] == "0 of 2 targets done"
        observe(ended("a"))
        terminal.until(lambda: terminal.screen[-1] == "a = boot done after 2.5 s")


def test_the_board_is_gone_after_an_exception(terminal: Terminal) -> None:
    """Whatever passes, the last lines are shown, the board is erased and the thread has ended."""

    def interrupted_run() -> None:
        with live_observer(terminal.stream, environ=TERMINAL) as observe:
            observe(started("a", 62))
            terminal.until(lambda: terminal.shows("1:0"))
            observe(OutputLine(target="a", text="the last line"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    terminal.read()
    assert terminal.screen[-1] == "a | the last line"
    assert not terminal.shows("1:0")
    assert not any(thread.name == "live" for thread in threading.enumerate())


@pytest.mark.parametrize("environ", [{**TERMINAL, "CI": "true"}, {"TERM": "dumb"}, {}])
def test_a_terminal_nobody_steers_gets_plain_lines(
    environ: dict[str, str], terminal: Terminal
) -> None:
    """In CI and on a dumb terminal there are no escape sequences, and nothing is cut."""
    with live_observer(terminal.stream, environ=environ) as observe:
        observe(started("a", 62))
        observe(OutputLine(target="a", text="x" * 100))
    terminal.read()
    assert "\x1b" not in terminal.raw
    assert "a | " + "x" * 100 in terminal.raw


def test_no_color_keeps_the_board(terminal: Terminal) -> None:
    """NO_COLOR takes the colours away, not the board."""
    with live_observer(terminal.stream, environ={**TERMINAL, "NO_COLOR": "1"}) as observe:
        observe(started("a", 62))
        terminal.until(lambda: terminal.shows("1:0"))
        observe(Warned(target="a", text="look"))
    terminal.read()
    assert not re.search(r"\x1b\[[0-9;]*m", terminal.raw)


def test_quiet_has_no_board(terminal: Terminal) -> None:
    """Quiet is quiet on a terminal, too."""
    with live_observer(terminal.stream, verbosity=-1, environ=TERMINAL) as observe:
        observe(started("a", 62))
        observe(Warned(target="a", text="look"))
        terminal.until(lambda: terminal.shows("look"))
        observe(ended("a"))
    terminal.read()
    assert "5:00" not in terminal.raw
    assert terminal.screen == ["a ! look", "a = boot done after 2.5 s"]


def test_a_hundred_chatty_targets_on_a_held_terminal(terminal: Terminal) -> None:
    """A terminal that takes nothing holds up no build: the flood is dropped, counted, and the end
    of it shown."""
    with live_observer(terminal.stream, environ=TERMINAL) as observe:

        def talk(target: str) -> None:
            for n in range(100):
                observe(OutputLine(target=target, text=f"line {n} {'x' * 40}"))

        threads = [threading.Thread(target=talk, args=(f"t{n}",)) for n in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)  # Nobody reads the terminal meanwhile, so it is full.
            assert not thread.is_alive()
        observe(Warned(target="t0", text="the end"))
        terminal.until(lambda: "the end" in terminal.raw)
    terminal.read()
    assert re.search(r"\(\d+ lines are not shown here; the logs have them\)", terminal.raw)
    shown = [line for line in terminal.screen if "|" in line]
    assert all(re.fullmatch(r"t\d+ \| line \d+ x+", line) for line in shown)


# --- the board itself ---------------------------------------------------------------------------


def begun(stages: Stages, target: str, at: float, stage: Stage = Stage.BOOT) -> None:
    stages.see(StageStarted(at=at, target=target, stage=stage, attempt=1, limit_s=3700))


def test_rows_of_many_targets() -> None:
    """The board has a row for each stage over two seconds, oldest first, and never too many."""
    stages = Stages()
    stages.see(run_of(*"abcdef"))
    for n, target in enumerate("abcd"):
        begun(stages, target, 100.0 + n)
    begun(stages, "e", 0.0, Stage.QUEUE)
    stages.see(BuildEnded(target="f", result=BAD))
    stages.see(PhaseStarted(at=101.0, target="a", phase="install"))
    assert stages.rows(101.9, most=9) == []
    assert stages.rows(104.5, most=9) == [
        "a  boot       0:04 / 1:01:40  phase install",
        "b  boot       0:03 / 1:01:40",
        "c  boot       0:02 / 1:01:40",
        "1 of 6 targets done",
    ]
    assert stages.rows(110.0, most=3) == [
        "a  boot       0:10 / 1:01:40  phase install",
        "... and 3 more",
        "1 of 6 targets done",
    ]
    assert len(stages.rows(110.0, most=1)) == 1
    assert stages.rows(110.0, most=0) == []


def test_silence() -> None:
    """Silence counts from the last line, is told every 30 seconds, and not of the queue."""
    stages = Stages()
    begun(stages, "a", 100.0)
    begun(stages, "q", 0.0, Stage.QUEUE)
    stages.see(OutputLine(at=110.0, target="a", text="x"))
    assert stages.silent(139.9) == []
    assert stages.silent(140.0) == [("a", "boot 0:40 / 1:01:40")]
    assert stages.silent(169.9) == []
    assert stages.silent(170.0) == [("a", "boot 1:10 / 1:01:40")]
    stages.see(StageEnded(target="a", stage=Stage.BOOT, attempt=1, seconds=1))
    assert stages.silent(1000.0) == []


def test_rich_is_not_loaded_for_plain_lines() -> None:
    """A pipe pays for no terminal library."""
    program = (
        "import sys\n"
        "from build_orchestrator.cli.live import live_observer\n"
        "from build_orchestrator.events import OutputLine\n"
        "with live_observer(sys.stderr) as observe: observe(OutputLine(text='größe'))\n"
        "print(sorted({'rich', 'msgspec', 'jinja2', 'xml'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "[]\n"
