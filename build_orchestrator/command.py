"""The only door to child processes.

Every child gets a process group of its own, so that nothing of it survives us killing it; every
wait has a deadline and wakes up when the run is cancelled; output arrives as it is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    HostNotReady,
    OrchestratorError,
)

CHUNK = 1 << 16
TAIL_BYTES = 8192
GRACE_S = 2.0
LOOK_S = 0.5
"""How often to look whether a child has ended whose outputs are still open."""
PIPE = subprocess.PIPE
Child = subprocess.Popen[bytes]
"""What ``spawn`` hands out."""

Consumer = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A child that has ended."""

    argv: tuple[str, ...]
    status: int
    """Exit status; 128 + n when signal n ended it."""
    seconds: float
    stdout: bytes
    """Everything it printed, or nothing where a consumer took it."""
    stderr: bytes
    """The last 8 KiB."""

    def check(self, brief: str, *, resolution: str = "") -> Finished:
        """Raise EnvironmentFailure with the command and its last words unless it succeeded."""
        if self.status == 0:
            return self
        words = (self.stderr or self.stdout[-TAIL_BYTES:]).decode(errors="replace").strip()
        raise EnvironmentFailure(
            brief,
            details=f"{shlex.join(self.argv)}\nended with status {self.status}: {words}",
            resolution=resolution,
        )


def run(
    argv: Sequence[str],
    *,
    deadline: Deadline,
    cancel: Cancel = NEVER,
    stdin: bytes | Iterable[bytes] = b"",
    stdout: Consumer | None = None,
    stderr: Consumer | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    grace_s: float = 0.0,
    until_exit: bool = False,
    check: Callable[[], None] | None = None,
) -> Finished:
    """Run a child to its end.

    Args:
        stdin: bytes, or chunks that are pulled as fast as the child reads them.
        stdout, stderr: called with each chunk as it arrives; without a consumer stdout is
            collected, and of stderr the end is.
        grace_s: how long a child that is not wanted any more may tidy up: it gets SIGINT first.
        until_exit: whoever outlives the child is not waited for, though it has its outputs, too.
        check: with ``until_exit``, called all the while; what of ours it raises ends the child.

    Raises:
        DeadlineExceeded, Interrupted, what ``check`` raises: the child's whole group was killed
            first.
        HostNotReady: there is no such program.
    """
    started = time.monotonic()
    child = spawn(argv, env=env, cwd=cwd, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    collected = bytearray()
    tail = bytearray()

    def keep_tail(chunk: bytes) -> None:
        tail.extend(chunk)
        del tail[:-TAIL_BYTES]
        if stderr is not None:
            stderr(chunk)

    hear = stdout or collected.extend
    try:
        _pump(child, stdin, hear, keep_tail, deadline, cancel, until_exit, check)
        _wait(child, deadline, cancel)
    except OrchestratorError:
        _interrupt(child, hear, keep_tail, grace_s)
        raise
    finally:
        status = kill_group(child)
    return Finished(
        argv=tuple(argv),
        status=status if status >= 0 else 128 - status,
        seconds=time.monotonic() - started,
        stdout=bytes(collected),
        stderr=bytes(tail),
    )


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in a process group of its own. The caller owns it.

    Raises:
        HostNotReady: there is no such program, or none that this host can start.
    """
    try:
        return subprocess.Popen(
            list(argv),
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        if cwd is not None and not cwd.is_dir():
            raise
        raise HostNotReady(
            f"{argv[0]}: no such program on this host",
            resolution="`build doctor` says which package has it.",
        ) from error
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        raise HostNotReady(
            f"{argv[0]}: no program that this host can start",
            resolution="Is it whole, and made for this host's processor?",
        ) from error


def kill_group(child: subprocess.Popen[bytes]) -> int:
    """Make sure that nothing of a child's process group is alive, reap it, return its status."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    status = child.wait()
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    return status


def _interrupt(child: Child, stdout: Consumer, stderr: Consumer, grace_s: float) -> None:
    """Ask a child to end, and hear what it says until it has ended or its grace is over."""
    if not grace_s:
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGINT)
    grace = Deadline("grace", grace_s)
    with contextlib.suppress(DeadlineExceeded):
        _pump(child, b"", stdout, stderr, grace, NEVER)
        _wait(child, grace, NEVER)


def _pump(
    child: subprocess.Popen[bytes],
    stdin: bytes | Iterable[bytes],
    stdout: Consumer,
    stderr: Consumer,
    deadline: Deadline,
    cancel: Cancel,
    until_exit: bool = False,
    check: Callable[[], None] | None = None,
) -> None:
    """Move bytes between us and the child until both of its outputs are closed, or until it has
    ended and nothing more comes."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    chunks = iter((stdin,)) if isinstance(stdin, bytes) else iter(stdin)
    pending = memoryview(b"")
    with selectors.DefaultSelector() as selector:
        selector.register(cancel, selectors.EVENT_READ)
        for stream, consumer in ((child.stdout, stdout), (child.stderr, stderr)):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, consumer)
        if not child.stdin.closed:
            os.set_blocking(child.stdin.fileno(), False)
            selector.register(child.stdin, selectors.EVENT_WRITE)
        outputs = 2
        while outputs:
            wait_s = min(deadline.remaining_s, LOOK_S) if until_exit else deadline.remaining_s
            ready = selector.select(wait_s)
            cancel.check()
            deadline.check()
            if check is not None:
                check()
            if until_exit and not ready and _has_ended(child):
                return
            for key, _ in ready:
                if key.fileobj is child.stdin:
                    pending = _feed(child, selector, pending, chunks)
                    continue
                chunk = os.read(key.fd, CHUNK)
                if chunk:
                    key.data(chunk)
                else:
                    selector.unregister(key.fileobj)
                    outputs -= 1


def _feed(
    child: subprocess.Popen[bytes],
    selector: selectors.BaseSelector,
    pending: memoryview,
    chunks: Iterator[bytes],
) -> memoryview:
    """Write once to the child's standard input; close it at the end of the chunks."""
    assert child.stdin is not None
    while not pending:
        chunk = next(chunks, None)
        if chunk is None:
            selector.unregister(child.stdin)
            child.stdin.close()
            return pending
        pending = memoryview(chunk)
    try:
        return pending[os.write(child.stdin.fileno(), pending) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:  # The child does not want the rest; its status says why.
        selector.unregister(child.stdin)
        with contextlib.suppress(OSError):
            child.stdin.close()
        return memoryview(b"")


def _wait(child: subprocess.Popen[bytes], deadline: Deadline, cancel: Cancel) -> None:
    """Wait for a child whose outputs are closed already: it ends at once, or deserves a poll.

    The child is not reaped here: while its process id is taken, ``killpg`` cannot hit a stranger.
    """
    pause_s = 0.001
    while not _has_ended(child):
        cancel.check()
        deadline.check()
        time.sleep(pause_s)
        pause_s = min(0.1, pause_s * 2)


def _has_ended(child: Child) -> bool:
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Lines:
    """A consumer that cuts a byte stream into text lines of any length.

    Bytes that are not UTF-8 are replaced. ``close`` hands out a last line without a newline.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._pieces: list[bytes] = []

    def __call__(self, chunk: bytes) -> None:
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            self._pieces.append(piece)
            self._emit()
        if rest:
            self._pieces.append(rest)

    def close(self) -> None:
        if self._pieces:
            self._emit()

    def _emit(self) -> None:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._on_line(line.removesuffix(b"\r").decode(errors="replace"))
