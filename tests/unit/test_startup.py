"""The commands that only look load nothing heavy, so that they feel instant."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What costs more than a few milliseconds, starts threads, or talks to somebody.
HEAVY = {
    "asyncio", "boto3", "botocore", "concurrent.futures", "email", "http", "importlib.metadata",
    "jinja2", "msgspec", "multiprocessing", "rich", "ssl", "subprocess", "tarfile", "tempfile",
    "urllib.request", "vagrant", "xml",
}  # fmt: skip

PROGRAM = """
import sys
before = set(sys.modules)  # A coverage tool or an editable install may have its own.
from build_orchestrator.cli import run
status = run(sys.argv[1:])
print(status, *set(sys.modules) - before, file=sys.stderr)
"""


def imported_by(*arguments: str) -> set[str]:
    """The modules that a command has imported by its end."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    status, *names = ended.stderr.split()
    assert status == "0", ended.stderr
    return set(names)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "--json"]])
def test_what_only_looks_loads_nothing_heavy(arguments: list[str]) -> None:
    """``build --help`` and ``build list`` need click, and PyYAML for the list."""
    assert imported_by(*arguments) & HEAVY == set()


@pytest.mark.parametrize("arguments", [["plan", "debian_bookworm_qemu"], ["up", "--help"]])
def test_a_plan_loads_no_cloud(arguments: list[str]) -> None:
    """Nothing that talks to anybody is loaded before something is to be done."""
    talkative = {"asyncio", "boto3", "botocore", "requests", "urllib.request", "vagrant", "winrm"}

    assert imported_by(*arguments) & talkative == set()
