"""Run other programs: never through a shell, and with no password in what is said about them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.errors import without_passwords as without_passwords

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ENDING = 2000
"""Characters of a child's last words that an error repeats."""


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
    """Run a child to its end and return what it printed.

    Raises:
        PackagerError: with ``code``, ``failed`` and the child's last words, when it does not end
            with 0 or cannot be started.
    """
    try:
        child = subprocess.run(
            argv,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        raise PackagerError(code, failed, details=str(error), resolution=resolution) from error
    said = child.stdout.decode(errors="replace")
    if child.returncode != 0:
        command = " ".join(argv)
        last = without_passwords(said).strip()[-ENDING:]  # in this order: a cut may go through one
        words = f"status {child.returncode} from: {command}\n{last}"
        raise PackagerError(code, failed, details=words.strip(), resolution=resolution)
    return said
