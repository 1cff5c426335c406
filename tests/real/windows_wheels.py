"""The wheels that the shipped packager.yaml wants on Windows, for builds without an index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import require

SOURCE_ONLY = ("cloudify-common==7.0.5", "proxy_tools<1", "wagon==1.0.3")
FOR_WINDOWS = ("--platform", "win_amd64", "--python-version", "3.11", "--only-binary", ":all:")
ASKED = (
    "pip==25.3",
    "packaging==25.0",
    "setuptools==80.9.0",
    "click==8.1.8",
    "psutil==7.2.2",
    "pyyaml==6.0.3",
)


def make_wheelhouse(place: Path) -> Path:
    """All that packager.yaml asks for, and what that needs."""
    _pip("wheel", "--no-deps", "-w", place, *SOURCE_ONLY)
    found = ("--find-links", place, "-d", place)
    _pip("download", *FOR_WINDOWS, *found, *SOURCE_ONLY, *ASKED, "colorama")
    return place


def _pip(*arguments: str | Path) -> None:
    """Run pip, or skip: what it fetches cannot be had without an index."""
    argv = [sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    require(that=done.returncode == 0, because=f"the index does not answer: {done.stderr[-500:]}")
