"""Talk to a folder of this host as if it were a machine: what the fake provider stands on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from build_orchestrator.transport.shell import Shell


class LocalShell(Shell):
    """Runs scripts on this host; ``/x`` of the machine is ``<root>/x``.

    Only ``push`` and ``pull`` map paths. A script runs as this user in ``root`` and finds its
    place with ``$MACHINE_ROOT``; of our own environment it sees ``PATH`` alone.
    """

    def __init__(self, root: Path, env: Mapping[str, str] | None = None) -> None:
        self.root = self.cwd = root
        root.mkdir(parents=True, exist_ok=True)
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(root),
            "LC_ALL": "C.UTF-8",
            "MACHINE_ROOT": str(root),
            **(env or {}),
        }

    def argv(self, line: str) -> list[str]:
        return ["sh", "-c", line]

    def place(self, path: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(self.root) / path.relative_to("/")
