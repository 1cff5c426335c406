"""What of an image must be on this host before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_orchestrator import cache
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.image import lacking
from build_orchestrator.image.download import KIND, key_of
from build_orchestrator.model import ImageSource

SUM = "ab" * 32
DISK = ImageSource(path="disk", sha256=SUM)


@pytest.mark.parametrize(
    ("source", "provider", "wrong"),
    [
        (DISK, "qemu", {"path": "disk does not exist"}),
        (
            ImageSource(path="folder", sha256=SUM),
            "qemu",
            {"path": "folder is a folder, not a file"},
        ),
        (ImageSource(path="file", sha256=SUM), "qemu", {}),
        (
            ImageSource(url="https://x/disk", sha256=SUM, kernel="k", initrd="https://x/initrd"),
            "qemu",
            {"kernel": "k does not exist"},
        ),
        (ImageSource(path="x" * 300, sha256=SUM), "qemu", {"path": f"{'x' * 300} does not exist"}),
        (
            ImageSource(box="own/box", path="own.box", sha256=SUM),
            "libvirt",
            {"path": "own.box does not exist"},
        ),
        (ImageSource(bootstrap="bookworm"), "qemu", {}),
    ],
)
def test_each_path_must_lead_to_a_file(
    tmp_path: Path, source: ImageSource, provider: str, wrong: dict[str, str]
) -> None:
    """Addresses are asked when the image is fetched."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert lacking(source, provider=provider, project=tmp_path) == wrong


def test_what_the_cache_has_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept by its content; a box is not: Vagrant is asked for it by its path."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert lacking(DISK, provider="qemu", project=tmp_path)
    deadline = Deadline("image", 20)
    cache.entry(KIND, key_of(DISK), Path.touch, deadline=deadline, cancel=NEVER)
    assert lacking(DISK, provider="qemu", project=tmp_path) == {}
