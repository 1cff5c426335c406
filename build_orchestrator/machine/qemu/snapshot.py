"""Warm starts: an image's first start, saved with its RAM before any build's identity enters.

A snapshot is an entry of the cache: ``overlay.qcow2`` (what the first start wrote), ``state`` (RAM
and devices), ``image`` (the path of the disk below the overlay), and the key pair of the user that
restores it, whose private half (0600) never leaves the cache. The machine it was taken from is
killed at once and never used for a build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator import cache
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.locks import cache_home
from build_orchestrator.machine.qemu.accelerator import qemu_id
from build_orchestrator.machine.qemu.identity import USER_KEY
from build_orchestrator.machine.qemu.launch import DEVICES, KERNEL_ARGUMENTS
from build_orchestrator.model import Image, Size

KIND = "snapshots"
DISK = "image"
HOST_PUBLIC = "host_ed25519.pub"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A saved first start."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "overlay.qcow2"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def user_key(self) -> Path:
        return self.folder / USER_KEY

    @property
    def host_public(self) -> str:
        return (self.folder / HOST_PUBLIC).read_text().strip()


def key_of(image: Image, size: Size, accelerator: str) -> str:
    """Everything that a saved RAM image fits: a start from anything else needs another snapshot."""
    parts = (
        *(image.sha256, image.disk, image.kernel, image.initrd, KERNEL_ARGUMENTS),
        *(str(size.cpus), str(size.memory_mib), str(size.disk_mib)),
        *(accelerator, qemu_id(), DEVICES),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def snapshot_of(
    key: str, disk: str, first_start: Callable[[Path], None], *, deadline: Deadline, cancel: Cancel
) -> Snapshot:
    """Return the snapshot with this key; where it is missing, ``first_start(folder)`` makes it, of
    this disk of an image."""

    def fill(folder: Path) -> None:
        folder.chmod(0o700)
        first_start(folder)
        (folder / DISK).write_text(disk)
        (folder / "overlay.qcow2").chmod(0o400)  # The source of every later start: never written.

    return Snapshot(cache.entry(KIND, key, fill, deadline=deadline, cancel=cancel))


def forget(disk: str) -> None:
    """Remove every snapshot of a disk that is gone: no machine can start from one any more."""
    for path in (cache_home() / KIND).glob(f"*/{DISK}"):
        if path.read_text() == disk:
            cache.drop(KIND, path.parent.name)
