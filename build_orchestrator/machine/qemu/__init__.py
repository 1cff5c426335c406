"""Machines as QEMU processes of this host: real machines, no daemon, no root at run time."""

from build_orchestrator.machine.qemu.provider import QemuProvider

__all__ = ["QemuProvider"]
