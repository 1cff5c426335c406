"""What the machines of one build cost: a clock for each, from its launch to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from build_orchestrator.costs import Used
from build_orchestrator.model import Identity

LEAST_S = 60.0
"""AWS takes a minute at least."""


@dataclass(slots=True, kw_only=True)
class _Clock:
    what: str
    kind: str
    since: float
    seconds: float | None = None


class Meter:
    """Knows which machines were paid for. Those of this host are not."""

    def __init__(self, hourly_usd: Mapping[str, float] | None = None) -> None:
        """``hourly_usd``: by type of machine."""
        self._hourly_usd = hourly_usd or {}
        self._clocks: dict[str, _Clock] = {}

    def start(self, identity: Identity) -> None:
        """A machine is known from now on; what is told of it again is only known better."""
        details = identity.details
        if "instance_type" not in details:
            return
        clock = self._clocks.setdefault(
            identity.name, _Clock(what="", kind=details["instance_type"], since=time.monotonic())
        )
        where = details.get("zone") or details["region"]
        spot = ", spot" if details.get("market") == "spot" else ""
        clock.what = f"{clock.kind} in {where}{spot}"

    def stop(self, name: str) -> None:
        """A machine is not ours any more."""
        clock = self._clocks.get(name)
        if clock is not None and clock.seconds is None:
            clock.seconds = time.monotonic() - clock.since

    def used(self) -> tuple[Used, ...]:
        """Every machine, in the order of their launch; one that was never stopped, until now."""
        return tuple(self._used(name, clock) for name, clock in self._clocks.items())

    def _used(self, name: str, clock: _Clock) -> Used:
        lived_s = time.monotonic() - clock.since if clock.seconds is None else clock.seconds
        rate = self._hourly_usd.get(clock.kind)
        usd = None if rate is None else round(rate * max(lived_s, LEAST_S) / 3600, 6)
        return Used(machine=name, what=clock.what, seconds=round(lived_s, 1), usd=usd)
