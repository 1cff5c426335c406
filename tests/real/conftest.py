"""What tests on real machines share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.real.running import Project


@pytest.fixture
def qemu_project(tmp_path: Path) -> Iterator[Project]:
    """A project for real machines; what a failed test leaves is destroyed."""
    require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "mmdebstrap", "mke2fs")
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as state:
        project = Project(tmp_path / "project", Path(state))
        try:
            yield project
        finally:
            project.destroy_all()
