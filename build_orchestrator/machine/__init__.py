"""Machines and what supplies them. A new provider is one module and one row here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from build_orchestrator.errors import HostNotReady
from build_orchestrator.model import through_vagrant

if TYPE_CHECKING:
    from build_orchestrator.machine.contract import Cloud, Notify, Provider

PROVIDERS = {
    "qemu": "build_orchestrator.machine.qemu:QemuProvider",
    "libvirt": "build_orchestrator.machine.vagrant:with_libvirt",
    "virtualbox": "build_orchestrator.machine.vagrant:with_virtualbox",
    "aws": "build_orchestrator.machine.ec2:Ec2Provider",
    "fake": "build_orchestrator.machine.fake:FakeProvider",
}
"""Name -> where its class is; imported only when it is used."""


BAKER = "packer"
"""Supplies machines to Packer alone: no target has it, but a sweep knows it."""

LOCAL = (*(name for name in PROVIDERS if name != "aws"), BAKER)
"""Those whose machines are on this host: a sweep may always ask them what they show."""


def make_provider(name: str, *, notify: Notify, cloud: Cloud | None = None) -> Provider:
    """The provider with this name; one that is not listed is another one of Vagrant's.

    Args:
        cloud: where ``aws`` is asked.

    Raises:
        HostNotReady: a journal tells of a provider that this version has not.
    """
    places = {**PROVIDERS, BAKER: "build_orchestrator.machine.baker:PackerProvider"}
    if name not in places and through_vagrant(name):
        from build_orchestrator.machine.vagrant import with_another

        return with_another(name, notify)
    if name not in places:
        raise HostNotReady(
            f"this version of build-orchestrator has no provider {name}",
            resolution="Use the version that booted the machine.",
        )
    module, _, attribute = places[name].partition(":")
    where = {"cloud": cloud} if name == "aws" and cloud is not None else {}
    found = getattr(importlib.import_module(module), attribute)
    provider: Provider = found(notify=notify, **where)
    return provider
