"""What can go wrong with a wagon, numbered as every other command of this product numbers it."""

from __future__ import annotations

import enum

from build_orchestrator.agent.errors import PackagerError


class Status(enum.IntEnum):
    """Exit status of the wagon commands."""

    DONE = 0
    FAILED = 1
    """The wagon, or what it is made of, is wrong."""
    USAGE = 2
    """What was asked for cannot be had, and nothing was started."""
    ENVIRONMENT = 3
    """An address did not answer: try again."""
    HOST = 4
    """This host lacks something."""


class WagonError(PackagerError):
    """What happened (brief), where (details), and what to try (resolution)."""
