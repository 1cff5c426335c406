"""What tests on real machines share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.real.baking import BakeProject
from tests.real.running import Project, in_a_state_of_its_own
from tests.standins import windows


@pytest.fixture
def qemu_project(tmp_path: Path) -> Iterator[Project]:
    """A project for real machines; what a failed test leaves is destroyed."""
    require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "mmdebstrap", "mke2fs")
    with in_a_state_of_its_own(Project, tmp_path / "project") as project:
        yield project


@pytest.fixture
def bake_project(tmp_path: Path) -> Iterator[BakeProject]:
    """The same, with what Packer needs and a cache of its own for what it bakes."""
    require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "mmdebstrap", "packer")
    with in_a_state_of_its_own(BakeProject, tmp_path / "project") as project:
        yield project


@pytest.fixture(scope="session")
def python_for_windows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an embeddable Python for Windows."""
    try:
        return windows.embedded_python(tmp_path_factory.mktemp("python"))
    except windows.IndexDoesNotAnswer as error:
        require(that=False, because=f"the index does not answer: {error}")
        raise


@pytest.fixture(scope="session")
def windows_prefix(python_for_windows: Path) -> Iterator[Path]:
    """A drive C as new; machines are made from it with ``windows.copy_prefix``."""
    require("wine64")
    folder = Path(tempfile.mkdtemp(prefix="bo-"))  # A short path: Wine listens beside it.
    try:
        yield windows.make_prefix(folder / "wine", python_for_windows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
