"""KVM is used by libvirt's machines where it was seen to work, not where a device happens to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER
from build_orchestrator.machine.qemu import accelerator
from build_orchestrator.machine.qemu.launch import BINARY
from build_orchestrator.machine.vagrant.driver import driver_of, probe

SPEAKS, HANGS = "echo 'Linux version 6.1'", "exit 1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on a host that has a device of that name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(accelerator, "DEVICE", tmp_path / "kvm")
    monkeypatch.setattr("platform.release", lambda: "none of this host's")
    (tmp_path / "kvm").touch()
    return tmp_path / "build-orchestrator"


def answer(cache: Path, script: str, kernel: str = "box-disks/a/vmlinuz") -> None:
    """Have a kernel, and a QEMU in which it does this."""
    qemu = cache.parent / BINARY
    qemu.write_text(f"#!/bin/sh\n{script}\n")
    qemu.chmod(0o755)
    (cache / kernel).parent.mkdir(parents=True)
    (cache / kernel).touch()


@pytest.mark.parametrize(
    ("script", "expected"), [(SPEAKS, "kvm"), (HANGS, "qemu")], ids=["speaks", "hangs"]
)
def test_a_kernel_of_ours_shows_whether_kvm_works(cache: Path, script: str, expected: str) -> None:
    """That of an image or of a box; once for this boot of the host."""
    answer(cache, script)
    assert driver_of({}) == "kvm", "nothing is known yet"
    probe({}, cancel=NEVER)
    assert driver_of({}) == expected
    (cache.parent / BINARY).unlink()
    probe({}, cancel=NEVER)


def test_what_a_target_says_wins(cache: Path) -> None:
    """And nothing is tried."""
    answer(cache, "touch $XDG_CACHE_HOME/tried")
    for said in ("kvm", "qemu"):
        probe({"driver": said}, cancel=NEVER)
        assert driver_of({"driver": said}) == said
    assert not (cache.parent / "tried").exists()


def test_without_a_kernel_the_device_decides(cache: Path) -> None:
    """Public boxes keep theirs inside."""
    probe({}, cancel=NEVER)
    assert driver_of({}) == "kvm"
    (cache.parent / "kvm").unlink()
    probe({}, cancel=NEVER)
    assert driver_of({}) == "qemu"
