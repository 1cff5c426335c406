"""Wagons: a Python package with all wheels that it needs, in one file, to be installed offline.

The format and the commands are those of the package ``wagon`` (docs/reference/wagon-format.md). The
functions of this module are its Python calls, and have the names that they have there.
"""

from __future__ import annotations

from build_orchestrator.agent.wagon.contents import get_file, list_files, show
from build_orchestrator.agent.wagon.creating import create
from build_orchestrator.agent.wagon.errors import WagonError
from build_orchestrator.agent.wagon.installing import install
from build_orchestrator.agent.wagon.repairing import repair
from build_orchestrator.agent.wagon.validating import validate

__all__ = [
    "WagonError",
    "create",
    "get_file",
    "install",
    "list_files",
    "repair",
    "show",
    "validate",
]
