"""The command line on streams that are closed, full or gone: the exit code stays the command's."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import subprocess
import time

import pytest

from tests.contract.projects import CLI, SCRIPT, TARGET, Project, project

__all__ = ["project"]

real = pytest.mark.real


def status_in_bash(project: Project, arguments: str, rest: str) -> int:
    """The exit code of ``build`` itself, with ``rest`` behind it in bash."""
    line = f"{shlex.join(CLI)} {arguments} {rest}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=project.folder,
        env=project.environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode


@real
@pytest.mark.parametrize(
    "rest", ["| true", "2>&1 | true", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"]
)
def test_a_run_keeps_its_own_code(project: Project, rest: str) -> None:
    """Whoever reads the output or does not, a build that is published is 0."""
    assert status_in_bash(project, f"up {TARGET}", rest) == 0
    assert project.row()["outcome"] == "built"
    project.assert_nothing_left()


@real
def test_a_full_output_that_nothing_holds_back(project: Project) -> None:
    """CI systems often set this: each word is written at once, and fails at once."""
    project.environ["PYTHONUNBUFFERED"] = "1"
    assert status_in_bash(project, f"up {TARGET}", ">/dev/full") == 0


@real
@pytest.mark.parametrize("rest", ["| true", ">&- 2>&-", ">/dev/full"])
def test_a_leak_stays_a_leak(project: Project, rest: str) -> None:
    """Exit 5 reaches the caller, though nobody reads the words."""
    project.write(options={"refuse_to_die": "true"}, attempts=1)
    del project.environ["PYTHONWARNINGS"]  # The machine that lives on is what we ask for.
    assert status_in_bash(project, f"up {TARGET} -q", rest) == 5


@pytest.mark.parametrize("arguments", ["list", "--help"])
@pytest.mark.parametrize("rest", ["| true", ">&-"])
def test_who_only_looks_may_look_away(project: Project, arguments: str, rest: str) -> None:
    """``build list | head`` is no failure, and neither is a closed standard output."""
    assert status_in_bash(project, arguments, rest) == 0


def test_a_usage_error_that_nobody_reads(project: Project) -> None:
    """Exit 2 stays exit 2 on a closed standard error."""
    assert status_in_bash(project, "up nothing_like_it", "2>&-") == 2
    assert status_in_bash(project, "lisst", "2>/dev/full") == 2


@real
def test_a_terminal_that_hangs_up(project: Project) -> None:
    """The window is closed: SIGHUP, exit 129, and no machine is left."""
    project.write(script=f"{SCRIPT}touch {project.home}/here\nsleep 60\n", attempts=1)
    ours, theirs = pty.openpty()
    # The first terminal that the leader of a new session opens becomes its own.
    line = 'exec "$@" <>"$0" >&0 2>&0'
    child = subprocess.Popen(
        ["bash", "-c", line, os.ttyname(theirs), *CLI, "up", TARGET],
        cwd=project.folder,
        env={**project.environ, "TERM": "xterm"},
        start_new_session=True,
    )
    end = time.monotonic() + 30
    while not (project.home / "here").exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.close(theirs)
    os.close(ours)
    assert child.wait(30) == 129
    project.assert_nothing_left()


def test_a_log_cannot_steer_a_terminal(project: Project) -> None:
    """On a terminal it is shown without what would; anywhere else as it is."""
    evil = "\\033]0;title\\007\\033[2Jwell\\rdone"
    project.write(script=f"printf '{evil}\\n'\n{SCRIPT}")
    assert project.up().status == 0
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [*CLI, "logs", TARGET],
        cwd=project.folder,
        env=project.environ,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while chunk := terminal.read(1 << 16):  # OSError: nobody holds the other end any more.
            shown += chunk
    assert child.wait(20) == 0
    assert b"\x1b" not in shown
    assert b" | well done\r\n" in shown
    assert b" | hello\r\n" in shown
    log = (project.run / TARGET / "log.txt").read_bytes()
    assert b"\x1b]0;title\x07\x1b[2Jwell\rdone\n" in log
