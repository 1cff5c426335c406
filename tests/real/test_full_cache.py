"""A cache whose file system has no room: it is said so, whoever met it, and no half image stays."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import DiskFull
from build_orchestrator.image import resolve
from build_orchestrator.machine.contract import silent
from build_orchestrator.model import ImageSource
from tests.conftest import require

CONTENT = bytes(24 << 20)

MMDEBSTRAP = """\
#!/bin/sh
# Plays mmdebstrap: what has filled the disk it removes before it ends.
head -c 24M /dev/zero >"$TMPDIR/tree" && exit 0
sleep 2
rm "$TMPDIR/tree"
echo E: it went wrong >&2
exit 25
"""


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache on a file system of 16 MiB."""
    require("mount", that=os.geteuid() == 0, because="only root mounts")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", place], check=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    yield place
    subprocess.run(["umount", place], check=True)


def refused(source: ImageSource, project: Path) -> DiskFull:
    with pytest.raises(DiskFull) as caught:
        resolve(
            source, project=project, deadline=Deadline("image", 60), cancel=NEVER, on_line=silent
        )
    return caught.value


def left(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_an_image_that_does_not_fit(tmp_path: Path, small: Path) -> None:
    (tmp_path / "disk.qcow2").write_bytes(CONTENT)
    source = ImageSource(path="disk.qcow2", sha256=hashlib.sha256(CONTENT).hexdigest())
    error = refused(source, tmp_path)
    assert error.brief == f"this host's disk is full ({small / 'build-orchestrator/images'})"
    assert error.details.startswith("0 MiB free\n")
    assert left(small) == []


def test_packages_that_do_not_fit(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured while they are installed: afterwards there is room again."""
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(MMDEBSTRAP)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    error = refused(ImageSource(bootstrap="bookworm"), tmp_path)
    assert str(small / "build-orchestrator/images") in error.brief
    assert "MiB free" in error.details
    assert left(small) == []
