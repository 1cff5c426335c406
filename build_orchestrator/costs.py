"""What machines that are paid for may cost, would cost and did cost.                  (pure)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one run may cost, as declared. None sets no limit."""

    max_hourly_usd: float | None = None
    """All machines that live at once."""
    max_machines: int | None = None
    """At once."""
    hourly_usd: Mapping[str, float] = field(default_factory=dict)
    """Type of machine -> USD an hour; wins over the shipped table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the machines of a plan would cost, from a table of list prices."""

    machines: int
    """At once, at most."""
    hourly_usd: float
    """The dearest so many of them."""
    most_usd: float
    """All of it, if each build used up its limits and its attempts."""
    unknown: tuple[str, ...] = ()
    """Types of machine whose price is not known; they count as nothing."""
    prices_of: str
    """When the table was made: ``2026-01-19``."""
    prices_from: str
    """Where its prices were read."""
    over_budget: str = ""
    """Why ``up`` refuses; empty where it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """One machine that was paid for."""

    machine: str
    what: str
    """Such as ``t3.medium in eu-west-1a, spot``."""
    seconds: float
    """From the launch until it was destroyed; of a kept machine, until it was let go."""
    usd: float | None = None
    """At the list price on demand, so spot was cheaper; None where that is not known."""
