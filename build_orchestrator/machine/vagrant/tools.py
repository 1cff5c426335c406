"""What a provider's own tools can do that Vagrant cannot: say what exists, and remove it for sure.

Vagrant finds a machine through files below ``.vagrant``. What was killed before it wrote them, or
whose folder is gone, only the provider itself knows, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from build_orchestrator.deadline import Cancel, Deadline


class Tools(Protocol):
    """One provider's own tools. Each raises OrchestratorError where they do not answer."""

    def prepare(
        self, box: Path, name: str, version: str, *, deadline: Deadline, cancel: Cancel
    ) -> None:
        """Make what processes of Vagrant's would race for: networks, and the box's own disk."""
        ...

    def shown(self) -> Mapping[str, str]:
        """Every name that begins like a machine's of ours, and its folder where that is told."""
        ...

    def running(self, name: str) -> bool:
        """Whether the machine with this name runs."""
        ...

    def remove(self, name: str, *, deadline: Deadline) -> None:
        """Destroy the machine with this name or id, and its disks. One that is gone is fine."""
        ...

    def exists(self, name: str) -> bool:
        """Whether anything with this name or id is left."""
        ...
