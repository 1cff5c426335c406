"""What happens is written down, line by line, and never disturbs the run."""

from __future__ import annotations

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

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
from build_orchestrator.model import (
    Failure,
    MachineFate,
    Outcome,
    Published,
    PublishedArtifact,
    Result,
    Stage,
)
from build_orchestrator.sinks import EventLog, Tail, TargetLogs, spoken, timestamp

AT = 1795225500.1234
TARGET = "debian_bookworm_qemu"
FULL = Path("/dev/full")

RESULT = Result(
    target=TARGET,
    outcome=Outcome.FAILED,
    machine=MachineFate.KEPT,
    kept_until="05:45",
    stages_s={Stage.BOOT: 2.5},
    published=(
        PublishedArtifact(destination="dist", name="a", url="dist/a", state=Published.NO),
        PublishedArtifact(destination="s3", name="a", url="s3/a", state=Published.YES),
    ),
    failure=Failure(stage="provision", brief="no luck"),
)
EVERY_EVENT: list[tuple[Event, str, str]] = [
    (
        RunStarted(at=AT, run_id="r1", folder="runs/r1", targets=(TARGET,)),
        "run_started",
        "= run r1: 1 target, runs/r1",
    ),
    (
        StageStarted(
            at=AT, target=TARGET, stage=Stage.BOOT, attempt=2, limit_s=300, waiting_for="ssh"
        ),
        "stage_started",
        "= boot started, attempt 2, limit 300 s, waiting for ssh",
    ),
    (
        StageEnded(at=AT, target=TARGET, stage=Stage.BOOT, attempt=1, seconds=2.34),
        "stage_ended",
        "= boot done after 2.3 s",
    ),
    (
        StageEnded(at=AT, target=TARGET, stage=Stage.BOOT, attempt=1, seconds=2.34, failed=True),
        "stage_ended",
        "! boot failed after 2.3 s",
    ),
    (PhaseStarted(at=AT, target=TARGET, phase="install"), "phase_started", "= phase install"),
    (OutputLine(at=AT, target=TARGET, text="hello ö"), "output_line", "| hello ö"),
    (Note(at=AT, target=TARGET, text="a note"), "note", ". a note"),
    (Warned(at=AT, target=TARGET, text="look"), "warned", "! look"),
    (
        AttemptFailed(at=AT, target=TARGET, attempt=1, stage=Stage.BOOT, reason="it died"),
        "attempt_failed",
        "! attempt 1 failed in boot: it died; another machine follows",
    ),
    (
        BuildEnded(at=AT, target=TARGET, result=RESULT),
        "build_ended",
        "! failed in provision: no luck; machine kept until 05:45; published: no, yes",
    ),
    (RunEnded(at=AT, exit_code=1, seconds=9.0), "run_ended", "= run ended after 9.0 s with exit "),
]


def forbidden(text: str) -> None:
    """The callback of a sink that must have nothing to warn of."""
    pytest.fail(text)


@pytest.mark.parametrize(("event", "words"), [(event, words) for event, _, words in EVERY_EVENT])
def test_every_event_has_words(event: Event, words: str) -> None:
    """Each event reads like a sentence for a person."""
    assert " ".join(spoken(event)).startswith(words)


def test_every_kind_of_event_is_covered() -> None:
    """A new kind of event does not go unseen here."""
    # By name: the decorator that adds slots makes each class twice.
    kinds = {kind.__name__ for kind in Event.__subclasses__()}
    assert {type(event).__name__ for event, _, _ in EVERY_EVENT} == kinds


def test_event_log_is_one_object_per_line(tmp_path: Path) -> None:
    """Each event is one line of JSON with its name, its time in UTC, and its fields."""
    log = EventLog(tmp_path / "runs" / "events.jsonl", warn=forbidden)
    for event, _, _ in EVERY_EVENT:
        log(event)
    lines = (tmp_path / "runs" / "events.jsonl").read_text("utf-8").splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [record["event"] for record in records] == [name for _, name, _ in EVERY_EVENT]
    assert {record["at"] for record in records} == {"2026-11-21T01:45:00.123Z"}
    assert records[1]["target"] == TARGET
    assert records[1]["stage"] == "boot"
    assert records[9]["result"]["failure"]["stage"] == "provision"
    log.close()


def test_event_log_on_a_stream() -> None:
    """A stream gets the same lines at once, unfit characters are replaced, and it stays open."""
    stream = io.BytesIO()
    log = EventLog(stream, warn=forbidden)
    log(OutputLine(at=AT, target="t", text="a\nb\udc80"))
    log.close()
    assert json.loads(stream.getvalue())["text"] == "a\nb?"


def test_target_logs(tmp_path: Path) -> None:
    """Each target has its own log with a time and a mark on every line, readable at once."""
    logs = TargetLogs(tmp_path, warn=forbidden)
    logs(RunStarted(at=AT, run_id="r1", folder="runs/r1", targets=("a", "b")))
    logs(OutputLine(at=AT, target="a", text="one"))
    logs(Note(at=AT, target="b", text="two\nthree"))
    stamp = "2026-11-21T01:45:00.123Z"
    assert logs.path("a").read_text() == f"{stamp} | one\n"
    assert logs.path("b") == tmp_path / "b" / "log.txt"
    assert logs.path("b").read_text() == f"{stamp} . two\n{stamp} . three\n"
    logs.close()


def test_target_log_is_appended_to(tmp_path: Path) -> None:
    """What a log holds stays, and what comes after the build's end is still written."""
    logs = TargetLogs(tmp_path, warn=forbidden)
    for text in ("first", "second"):
        logs(OutputLine(target="a", text=text))
        logs(BuildEnded(target="a", result=RESULT))
        logs(OutputLine(target="a", text=f"late {text}"))
        logs.close()
    text = logs.path("a").read_text()
    assert [line.split(" ", 2)[2][:9] for line in text.splitlines() if " | " in line] == [
        "first",
        "late firs",
        "second",
        "late seco",
    ]


def test_a_closed_build_holds_no_file(tmp_path: Path) -> None:
    """A thousand builds one after another do not use up the file descriptors."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    logs = TargetLogs(tmp_path, warn=forbidden)
    for n in range(50):
        logs(OutputLine(target=f"t{n}", text="x"))
        logs(BuildEnded(target=f"t{n}", result=RESULT))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_huge_line(tmp_path: Path) -> None:
    """A line of 10 MB arrives whole."""
    logs = TargetLogs(tmp_path, warn=forbidden)
    logs(OutputLine(target="a", text="x" * 10_000_000))
    logs.close()
    assert logs.path("a").stat().st_size == len(f"{timestamp(AT)} | \n") + 10_000_000


def test_many_threads_tear_no_line(tmp_path: Path) -> None:
    """Lines from many threads stay whole, in every file."""
    logs = TargetLogs(tmp_path, warn=forbidden)
    events = EventLog(tmp_path / "events.jsonl", warn=forbidden)

    def talk(n: int) -> None:
        for k in range(50):
            event = OutputLine(target=f"t{k % 2}", text=f"{n} " + "x" * 5000)
            logs(event)
            events(event)

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs.close()
    events.close()
    for target in ("t0", "t1"):
        lines = logs.path(target).read_text().splitlines()
        assert len(lines) == 200
        assert all(line.endswith("x" * 5000) for line in lines)
    assert len([json.loads(line) for line in events_of(tmp_path)]) == 400


def events_of(folder: Path) -> list[str]:
    return (folder / "events.jsonl").read_text().splitlines()


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_full_disk_is_one_warning(tmp_path: Path) -> None:
    """A full disk is one warning per sink, and nothing is raised into the run."""
    warnings: list[str] = []
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log.txt").symlink_to(FULL)
    for sink in (TargetLogs(tmp_path, warn=warnings.append), EventLog(FULL, warn=warnings.append)):
        for _ in range(3):
            sink(OutputLine(target="a", text="x"))
        sink.close()
    assert len(warnings) == 2
    assert all("No space left" in warning for warning in warnings)


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path: Path) -> None:
    """A log that cannot be opened, and a callback that fails as well, leave the run alone."""
    (tmp_path / "a").write_text("a file in the way")
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        raise BrokenPipeError

    logs = TargetLogs(tmp_path, warn=warn)
    logs(OutputLine(target="a", text="x"))
    logs(OutputLine(target="a", text="y"))
    assert len(warnings) == 1
    assert str(tmp_path / "a" / "log.txt") in warnings[0]


class Faltering(io.RawIOBase):
    """A disk that takes three bytes of the second write, is then full once, and recovers."""

    def __init__(self) -> None:
        self.data = b""
        self.calls = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.calls += 1
        if self.calls == 3:
            raise OSError(28, os.strerror(28))
        taken = bytes(data)[: 3 if self.calls == 2 else None]
        self.data += taken
        return len(taken)


def test_after_a_torn_line_the_next_is_whole() -> None:
    """When a disk was full in the middle of a line, the next line is readable again."""
    stream = Faltering()
    warnings: list[str] = []
    log = EventLog(stream, warn=warnings.append)  # type: ignore[arg-type]
    for text in ("one", "two", "three"):
        log(OutputLine(at=AT, text=text))
    first, torn, third = stream.data.splitlines()
    assert (json.loads(first)["text"], json.loads(third)["text"]) == ("one", "three")
    assert torn == b'{"e'
    assert len(warnings) == 1


def test_tail_keeps_the_last_lines_of_each_target() -> None:
    """The tail has the last lines of the current attempt, long ones cut, other targets apart."""
    tail = Tail(n=2)
    for text in ("1", "2", "3"):
        tail(OutputLine(target="a", text=text))
    tail(OutputLine(target="b", text="x" * 5_000))
    tail(Note(target="a", text="not output"))
    assert tail.lines("a") == ("2", "3")
    assert tail.lines("b") == ("x" * 1000 + "...",)
    assert tail.lines("c") == ()
    tail(AttemptFailed(target="a", attempt=1, stage=Stage.BOOT, reason="r"))
    assert tail.lines("a") == ()
