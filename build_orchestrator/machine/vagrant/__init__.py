"""Machines that Vagrant supplies: VirtualBox, libvirt, and whatever else it has a provider for."""

from __future__ import annotations

from build_orchestrator.machine.contract import Notify
from build_orchestrator.machine.vagrant.provider import VagrantProvider


def with_libvirt(notify: Notify) -> VagrantProvider:
    from build_orchestrator.machine.vagrant.libvirt import Libvirt

    return VagrantProvider("libvirt", Libvirt(), notify)


def with_virtualbox(notify: Notify) -> VagrantProvider:
    from build_orchestrator.machine.vagrant.virtualbox import VirtualBox

    return VagrantProvider("virtualbox", VirtualBox(), notify)


def with_another(name: str, notify: Notify) -> VagrantProvider:
    """A provider that only Vagrant knows how to talk to."""
    return VagrantProvider(name, None, notify)
