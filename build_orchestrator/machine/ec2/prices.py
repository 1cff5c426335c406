"""What the machines of a plan would cost, and whether the project's budget allows it.

List prices from ``prices.json``, which says when and where they were read. They are for an order of
magnitude and for a limit, never for an invoice.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator.costs import Budget, Estimate
from build_orchestrator.machine.ec2.launch import kinds_of
from build_orchestrator.model import Build, Plan, Target

HOURS_OF_MONTH = 730
CPUS = {"xlarge": 4, "2xlarge": 8, "4xlarge": 16}
"""By the size of a type of machine; smaller ones have two, or one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """USD, without tax, on demand."""

    date: str
    source: str
    regions: Mapping[str, float]
    """Region -> by how much it is dearer than the one that ``hour_usd`` is of."""
    disk_gib_month_usd: float
    public_address_hour_usd: float
    hour_usd: Mapping[str, float]
    """Type of machine -> an hour of it with Linux."""
    windows_cpu_hour_usd: float
    """What Windows costs above that, for each processor."""


def shipped() -> Prices:
    """The table of this version."""
    content = json.loads(Path(__file__).with_name("prices.json").read_text())
    return Prices(**{each.name: content[each.name] for each in dataclasses.fields(Prices)})


def priced(plan: Plan, budget: Budget, prices: Prices, *, kept_s: float = 0.0) -> Plan:
    """The plan with the price of each build of aws, and with its estimate.

    Every such build knows its region.

    Args:
        kept_s: for so long a machine may be kept after its build: then they all live at once,
            however few are built in at a time.
    """
    builds = tuple(_priced(build, budget, prices) for build in plan.builds)
    paid = [build for build in builds if build.target.provider == "aws"]
    dearest = sorted((_dearest(build) for build in paid), reverse=True)
    machines = len(paid) if kept_s else min(plan.jobs, len(paid))
    estimate = Estimate(
        machines=machines,
        hourly_usd=round(sum(dearest[:machines]), 4),
        most_usd=round(sum(_most(build, kept_s) for build in paid), 4),
        unknown=tuple(dict.fromkeys(name for build in paid for name in _unknown(build))),
        prices_of=prices.date,
        prices_from=prices.source,
    )
    estimate = dataclasses.replace(estimate, over_budget=_over(estimate, budget))
    return dataclasses.replace(plan, builds=builds, estimate=estimate)


def _priced(build: Build, budget: Budget, prices: Prices) -> Build:
    if build.target.provider != "aws":
        return build
    kinds = kinds_of(build.target.options)
    found = {kind: _hour(build.target, kind, budget, prices) for kind in kinds}
    known = {kind: round(usd, 5) for kind, usd in found.items() if usd is not None}
    return dataclasses.replace(build, hourly_usd=known)


def _hour(target: Target, kind: str, budget: Budget, prices: Prices) -> float | None:
    """An hour of one machine with its disk and its address; None where that is not known."""
    factor = prices.regions.get(target.options["region"])
    own = budget.hourly_usd.get(kind)
    listed = prices.hour_usd.get(kind)
    if own is None and (listed is None or factor is None):
        return None
    cpus = CPUS.get(kind.rpartition(".")[2], 2) if target.distro.windows else 0
    with_system = (listed or 0.0) + cpus * prices.windows_cpu_hour_usd
    machine = own if own is not None else with_system * (factor or 1.0)
    disk_gib = -(-target.size.disk_mib // 1024)
    disk = disk_gib * prices.disk_gib_month_usd * (factor or 1.0) / HOURS_OF_MONTH
    public = target.options.get("address", "public") == "public"
    return machine + disk + (prices.public_address_hour_usd if public else 0.0)


def _dearest(build: Build) -> float:
    """An hour of the build's machine, whichever of its types it gets."""
    return max(build.hourly_usd.values(), default=0.0)


def _most(build: Build, kept_s: float) -> float:
    target = build.target
    return _dearest(build) * (target.attempts * target.deadlines.limit_s + kept_s) / 3600


def _unknown(build: Build) -> list[str]:
    options = build.target.options
    kinds = [kind for kind in kinds_of(options) if kind not in build.hourly_usd]
    return [f"{kind} in {options['region']}" for kind in kinds]


def _over(estimate: Estimate, budget: Budget) -> str:
    """Why the budget refuses; empty where it does not."""
    most = budget.max_machines
    if most is not None and estimate.machines > most:
        return f"{estimate.machines} machines of aws at once, and budget.max_machines is {most}"
    limit = budget.max_hourly_usd
    if limit is None:
        return ""
    if estimate.unknown:
        names = ", ".join(estimate.unknown)
        return f"no price is known of {names}, and budget.max_hourly_usd is {limit:g}"
    if estimate.hourly_usd > limit:
        return (
            f"the machines of aws would cost about {estimate.hourly_usd:.3g} USD an hour, and "
            f"budget.max_hourly_usd is {limit:g}"
        )
    return ""
