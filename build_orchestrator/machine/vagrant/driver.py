"""KVM or plain QEMU for libvirt's machines: what a target says, else what was seen to work."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from build_orchestrator.deadline import Cancel
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.locks import cache_home
from build_orchestrator.machine.qemu import accelerator

OPTION = "driver"
DRIVERS = ("kvm", "qemu")
KERNELS = ("images/*/vmlinuz", "box-disks/*/vmlinuz")
"""In the cache: those of images and boxes that were made on this host."""


def probe(options: Mapping[str, str], *, cancel: Cancel) -> None:
    """See whether KVM works, where no target says so, a kernel is at hand, and it is not known yet.

    /dev/kvm may open and yet start nothing; a machine would then wait for its address until its
    time is up.
    """
    if options.get(OPTION) or not accelerator.DEVICE.exists():
        return
    if kernel := _kernel():
        accelerator.choose(kernel, cancel=cancel)


def _kernel() -> str:
    """A kernel to try KVM with: of an image of ours, else this host's own, else nothing."""
    made = (path for pattern in KERNELS for path in sorted(cache_home().glob(pattern)))
    own = Path(f"/boot/vmlinuz-{platform.release()}")
    return next((str(path) for path in (*made, own) if os.access(path, os.R_OK)), "")


def driver_of(options: Mapping[str, str]) -> str:
    """``kvm`` or ``qemu``.

    What was seen counts. Where nothing was, the device decides; it is libvirt that opens it, so
    that we may not is no reason against it.
    """
    if said := options.get(OPTION):
        return said
    with contextlib.suppress(OrchestratorError):
        if verdict := accelerator.known_verdict():
            return "kvm" if verdict == "kvm" else "qemu"
    return "kvm" if accelerator.DEVICE.exists() else "qemu"
