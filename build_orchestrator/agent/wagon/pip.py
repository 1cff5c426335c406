"""Run pip: the only tool that makes wheels of everything that a package needs."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Sequence

from build_orchestrator.agent import children
from build_orchestrator.agent.archives import source_date_epoch
from build_orchestrator.agent.errors import PackagerError
from build_orchestrator.agent.wagon.errors import Status, WagonError

log = logging.getLogger("build_orchestrator.agent.wagon")

Command = Sequence[str]
"""The words that start a pip."""


def ours(work: Path) -> Command:
    """The pip of the interpreter that runs this; of a new environment where it has none.

    Raises:
        WagonError: neither can be had.
    """
    command = (sys.executable, "-m", "pip")
    try:
        children.run([*command, "--version"], code=Status.HOST, failed="")
    except PackagerError:
        return of_environment(make_environment(work / "pip"))
    return command


def make_environment(place: Path) -> Path:
    """A new virtual environment with a pip.

    Raises:
        WagonError: this Python cannot make one.
    """
    children.run(
        [sys.executable, "-m", "venv", str(place)],
        code=Status.HOST,
        failed="no virtual environment could be made",
        resolution="Install the distribution's package for venv (Debian: python3-venv).",
    )
    return place


def of_environment(place: Path) -> Command:
    """The pip of a virtual environment."""
    return (str(python_of(place)), "-m", "pip")


def python_of(environment: Path) -> Path:
    """The interpreter of a virtual environment.

    Raises:
        WagonError: it is none.
    """
    for name in ("bin/python", "Scripts/python.exe"):
        if (environment / name).exists():
            return environment / name
    raise WagonError(
        Status.USAGE,
        f"virtualenv {environment} does not exist",
        resolution="Name the folder of a virtual environment.",
    )


def python_version(command: Command) -> str:
    """``py311`` for the pip of Python 3.11.

    Raises:
        WagonError: it is no pip.
    """
    said = children.run(
        [*command, "--version"],
        code=Status.USAGE,
        failed=f"{' '.join(command)}: is no pip",
        resolution="Name a pip with --pip, such as /usr/bin/pip3.",
    )
    found = re.search(r"\(python (\d+)\.(\d+)\)", said)
    if found is None:
        raise WagonError(Status.USAGE, f"{' '.join(command)}: is no pip", details=said.strip())
    return f"py{found.group(1)}{found.group(2)}"


def run(command: Command, *arguments: str, failed: str, resolution: str = "") -> None:
    """Run a pip to its end.

    Raises:
        PackagerError: with its last words, when it fails.
    """
    said = children.run(
        [*command, *arguments],
        env=environment(),
        code=Status.FAILED,
        failed=failed,
        resolution=resolution,
    )
    log.debug("%s", children.without_passwords(said.strip()))


def environment() -> dict[str, str]:
    """The user's, quiet, and such that the same source gives the same wheel."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    env["SOURCE_DATE_EPOCH"] = str(source_date_epoch())
    env["CFLAGS"] = f"{env.get('CFLAGS', '')} -g0".strip()  # debug information holds paths
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # beside a source it would be packed, and holds times
    return env


def words(text: str, option: str) -> list[str]:
    """The words of an option that passes arguments on to pip.

    Raises:
        WagonError: a quotation mark has no other.
    """
    try:
        return shlex.split(text, posix=os.name != "nt")
    except ValueError as error:
        raise WagonError(Status.USAGE, f"{option} {text!r}: {error}") from error
