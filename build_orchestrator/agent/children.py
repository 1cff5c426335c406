"""Run other programs: never through a shell, and with no password in what is said about them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.errors import without_passwords as without_passwords
from build_orchestrator.agent.signals import postponed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENDING = 2000
"""Characters of a child's last words that an error repeats."""
GRACE_S = 5.0
"""How long a child may tidy up that is not wanted any more."""


def find(name: str) -> str | None:
    """A program on PATH, or beside the running interpreter as in a virtual environment."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), beside]))


def run(
    argv: Sequence[str],
    *,
    code: int,
    failed: str,
    env: Mapping[str, str] | None = None,
    resolution: str = "",
) -> str:
    """Run a child to its end and return what it printed. Whatever ends us ends it, with its family.

    Raises:
        PackagerError: with ``code``, ``failed`` and the child's last words, when it does not end
            with 0 or cannot be started.
    """
    child = None
    try:
        with postponed():
            child = _started(argv, env)
        said = child.communicate()[0].decode(errors="replace")
    except OSError as error:
        raise PackagerError(code, failed, details=str(error), resolution=resolution) from error
    except BaseException:
        if child is not None:
            _end(child)
        raise
    if child.returncode != 0:
        command = " ".join(argv)
        last = without_passwords(said).strip()[-ENDING:]  # in this order: a cut may go through one
        words = f"status {child.returncode} from: {command}\n{last}"
        raise PackagerError(code, failed, details=words.strip(), resolution=resolution)
    return said


def _started(argv: Sequence[str], env: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child, which may tidy up first, and then all that it has started."""
    if os.name == "nt":  # which has no process groups
        child.kill()
        child.wait()
        return
    try:
        _tell(child, signal.SIGINT)
        end = time.monotonic() + GRACE_S
        # Not reaped before its family is dead: so long nobody else can have its number.
        while not _has_ended(child) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        _tell(child, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return child.returncode is not None or os.waitid(os.P_PID, child.pid, flags) is not None


def _tell(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)
