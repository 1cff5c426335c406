"""Machines and what supplies them. A new provider is one module and one row here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from build_orchestrator.machine.contract import Notify, Provider

PROVIDERS = {
    "qemu": "build_orchestrator.machine.qemu:QemuProvider",
    "fake": "build_orchestrator.machine.fake:FakeProvider",
}
"""Name -> where its class is; imported only when it is used."""


def make_provider(name: str, *, notify: Notify) -> Provider:
    """The provider with this name."""
    module, _, attribute = PROVIDERS[name].partition(":")
    provider: Provider = getattr(importlib.import_module(module), attribute)(notify=notify)
    return provider
