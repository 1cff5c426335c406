"""The one door to child processes: nothing of a child survives, every wait ends."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.command import PIPE, TAIL_BYTES, Finished, Lines, kill_group, run, spawn
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    HostNotReady,
    Interrupted,
)

FAMILY = "sleep 60 & one=$!; sleep 60 & echo $one $!; wait"
"""A shell with two children, which says who they are."""


def soon(limit_s: float = 20.0) -> Deadline:
    return Deadline("provision", limit_s, "the test's child")


def sh(line: str, **options: object) -> Finished:
    return run(["sh", "-c", line], **{"deadline": soon(), **options})  # type: ignore[arg-type]


def is_alive(pid: int) -> bool:
    """Whether a process runs: a zombie, which only waits to be reaped, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_dead(pids: list[int]) -> None:
    """SIGKILL is sent, not yet delivered, when ``killpg`` returns."""
    end = time.monotonic() + 5
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < end, "a grandchild survived"
        time.sleep(0.001)


def test_what_a_child_says_and_how_it_ends_come_back() -> None:
    """Standard output, standard error and the status are the child's own."""
    finished = sh("echo out; echo err >&2; exit 7")
    assert (finished.status, finished.stdout, finished.stderr) == (7, b"out\n", b"err\n")


def test_a_signal_is_a_status_above_128() -> None:
    """A child that a signal ends has 128 + n, as a shell would say."""
    assert sh("kill -TERM $$").status == 143


def test_a_program_that_is_not_there_is_named() -> None:
    """A missing program means that the host is not ready, and says which."""
    with pytest.raises(HostNotReady, match="no-such-program-here"):
        run(["no-such-program-here"], deadline=soon())


def test_a_program_that_this_host_cannot_start_is_named(tmp_path: Path) -> None:
    """One for another processor, or half of one."""
    other = tmp_path / "other"
    other.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(64))
    other.chmod(0o755)
    with pytest.raises(HostNotReady, match="other: no program that this host can start"):
        run([str(other)], deadline=soon())


def test_check_says_what_was_run_and_its_last_words() -> None:
    """The error of a failed child holds the command, the status and what it said."""
    with pytest.raises(EnvironmentFailure) as caught:
        sh("echo 'no room' >&2; exit 3").check("the disk could not be made", resolution="make room")
    assert caught.value.brief == "the disk could not be made"
    assert "status 3: no room" in caught.value.details
    assert "sh -c" in caught.value.details
    assert caught.value.resolution == "make room"


def test_standard_error_is_kept_to_its_end_only() -> None:
    """A child that complains for ever does not fill our memory."""
    finished = sh("head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2")
    assert len(finished.stderr) == TAIL_BYTES
    assert finished.stderr.endswith(b"xend\n")


class Switch(Deadline):
    """A deadline that passes when it is told to."""

    over = False

    @property
    def remaining_s(self) -> float:
        return 0.0 if self.over else super().remaining_s


def kill_family(error: type[Exception]) -> None:
    """Run a family, end it as soon as it is up, and see that all of it is dead."""
    pids: list[int] = []
    deadline, cancel = Switch("provision", 50), Cancel()

    def on_up(chunk: bytes) -> None:
        pids.extend(int(word) for word in chunk.split())
        if error is Interrupted:
            cancel.set(2)
        deadline.over = error is DeadlineExceeded

    with pytest.raises(error):
        run(["sh", "-c", FAMILY], deadline=deadline, cancel=cancel, stdout=on_up)
    assert len(pids) == 2
    wait_until_dead(pids)


def test_a_deadline_kills_the_whole_family() -> None:
    """When time is up nothing of the child's process group is left."""
    kill_family(DeadlineExceeded)


def test_cancel_kills_the_whole_family_at_once() -> None:
    """A wish to stop ends the wait at once, long before its deadline."""
    started = time.monotonic()
    kill_family(Interrupted)
    assert time.monotonic() - started < 20


def test_a_child_that_closed_its_outputs_has_a_deadline_too() -> None:
    """A child that goes on without outputs is waited for, and no longer than allowed."""
    with pytest.raises(DeadlineExceeded, match=r"limit of 0\.1 s"):
        sh("exec >&- 2>&-; sleep 60", deadline=soon(0.1))


def test_who_outlives_the_child_is_not_waited_for_where_nobody_wants_it() -> None:
    finished = sh("setsid sleep 8 & echo said; exit 3", until_exit=True)
    assert (finished.status, finished.stdout) == (3, b"said\n")
    assert finished.seconds < 4


def test_the_error_names_stage_limit_and_what_was_waited_for() -> None:
    """Whoever reads the error knows which limit passed."""
    with pytest.raises(DeadlineExceeded) as caught:
        sh("sleep 60", deadline=soon(0.05))
    assert "provision" in caught.value.brief
    assert "the test's child" in caught.value.details
    assert "deadlines.provision_s" in caught.value.resolution


def test_a_consumer_that_raises_leaves_no_child() -> None:
    """Whatever goes wrong on our side, the child is dead before the error is out."""
    pids: list[int] = []

    def break_down(chunk: bytes) -> None:
        pids.append(int(chunk))
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        sh("echo $$; sleep 60", stdout=break_down)
    wait_until_dead(pids)


def test_much_goes_in_and_comes_out_at_the_same_time() -> None:
    """Neither side waits for the other, however much is on its way (no deadlock of pipes)."""
    chunk = os.urandom(1 << 16)
    finished = run(["cat"], deadline=soon(), stdin=(chunk for _ in range(320)))
    assert finished.stdout == chunk * 320


def test_a_child_that_does_not_read_is_no_error() -> None:
    """A child may end without reading its input; its status says what there is to say."""
    assert run(["true"], deadline=soon(), stdin=bytes(1 << 22)).status == 0
    assert sh("exec <&-; exit 5", stdin=bytes(1 << 22)).status == 5


def test_empty_chunks_do_not_end_the_input() -> None:
    """An empty chunk in the middle is nothing, not the end."""
    assert run(["cat"], deadline=soon(), stdin=iter([b"a", b"", b"b"])).stdout == b"ab"


def test_a_line_of_ten_megabytes_is_one_line() -> None:
    """A line of any length arrives whole."""
    lines: list[str] = []
    consumer = Lines(lines.append)
    sh("head -c 10000000 /dev/zero | tr '\\0' x; echo; echo end", stdout=consumer)
    consumer.close()
    assert [len(line) for line in lines] == [10_000_000, 3]


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a", b"b\nc"], ["ab", "c"]),
        ([b"a\r\n", b"\r\n"], ["a", ""]),
        ([b"\xff\xfe\n"], ["\ufffd\ufffd"]),
        ([b"\xc3", b"\xa9\n"], ["\u00e9"]),
        ([], []),
    ],
)
def test_lines_are_cut_wherever_the_chunks_end(chunks: list[bytes], lines: list[str]) -> None:
    """Where a chunk ends means nothing, and bytes that are not UTF-8 are replaced."""
    found: list[str] = []
    consumer = Lines(found.append)
    for chunk in chunks:
        consumer(chunk)
    consumer.close()
    assert found == lines


def test_the_child_has_a_session_of_its_own() -> None:
    """A Ctrl-C of the terminal reaches us alone; we decide what becomes of the child."""
    said = sh("echo $$; ps -o sid= -p $$ 2>/dev/null || cut -d' ' -f6 /proc/$$/stat").stdout.split()
    assert said[0] == said[1]
    assert int(said[0]) != os.getsid(0)


def test_the_child_sees_the_environment_and_folder_that_it_was_given(tmp_path: Path) -> None:
    """Nothing of our own environment reaches a child whose environment is given."""
    finished = run(
        [sys.executable, "-c", "import os; print(os.getcwd(), sorted(os.environ))"],
        deadline=soon(),
        env={"ONLY": "this", "LC_ALL": "C"},
        cwd=tmp_path,
    )
    assert finished.stdout.decode().strip() == f"{tmp_path} ['LC_ALL', 'ONLY']"


def test_a_spawned_family_dies_as_a_whole() -> None:
    """``kill_group`` ends what ``spawn`` started, reaps it, and may be called again."""
    child = spawn(["sh", "-c", FAMILY], stdout=PIPE)
    assert child.stdout is not None
    pids = [int(word) for word in child.stdout.readline().split()]
    assert kill_group(child) == -9
    assert kill_group(child) == -9
    wait_until_dead(pids)


def slow() -> Iterator[bytes]:
    yield b"first"
    raise OSError("the source is gone")


def test_an_input_that_breaks_kills_the_child() -> None:
    """What cannot be read on our side is our error, not a truncated input for the child."""
    with pytest.raises(OSError, match="the source is gone"):
        run(["cat"], deadline=soon(), stdin=slow())


def test_many_threads_run_children_at_once() -> None:
    """Children of several builds do not hear each other's ends."""
    statuses: dict[int, int] = {}

    def one(status: int) -> None:
        statuses[status] = sh(f"exit {status}").status

    threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == {n: n for n in range(8)}
