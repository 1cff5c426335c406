"""KVM or plain QEMU for libvirt's machines: what a target says, else what was seen to work."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from build_orchestrator.errors import OrchestratorError
from build_orchestrator.machine.qemu import accelerator

OPTION = "driver"
DRIVERS = ("kvm", "qemu")


def driver_of(options: Mapping[str, str]) -> str:
    """``kvm`` or ``qemu``.

    A verdict of the provider qemu counts: /dev/kvm may open and yet start nothing. Without one the
    device decides; it is libvirt that opens it, so that we may not is no reason against it.
    """
    if said := options.get(OPTION):
        return said
    with contextlib.suppress(OrchestratorError):
        if verdict := accelerator.known_verdict():
            return "kvm" if verdict == "kvm" else "qemu"
    return "kvm" if accelerator.DEVICE.exists() else "qemu"
