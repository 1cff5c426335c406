"""What machines of AWS would cost, what the budget says to it, and what was used."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from build_orchestrator.cli.cloud import check_budget
from build_orchestrator.configuration import load
from build_orchestrator.costs import Budget, Estimate
from build_orchestrator.errors import ConfigurationError, UsageError
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.machine.ec2.launch import kinds_of
from build_orchestrator.machine.ec2.prices import Prices, priced, shipped
from build_orchestrator.model import Identity, Plan
from build_orchestrator.pipeline import meter
from build_orchestrator.plan import decode, encode, make_plan

ROOT = Path(__file__).parents[2]
PRICES = Prices(
    date="2026-01-19",
    source="a test",
    regions={"eu-west-1": 2.0},
    disk_gib_month_usd=0.0,
    public_address_hour_usd=0.0,
    hour_usd={"t3.medium": 0.05, "t3.large": 0.10},
    windows_cpu_hour_usd=0.03,
)
TARGETS = """\
schema: 1
{budget}
defaults: {{attempts: 2, launch: {{region: eu-west-1}}, deadlines: {{provision_s: 2000}}}}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers:
      aws: {{image: {{ami: ami-12345678}}}}
      qemu: {{image: {{bootstrap: bookworm}}}}
  debian_trixie:
    distribution: Debian
    release: trixie
    providers:
      aws: {{image: {{ami: ami-12345678}}, launch: {{instance_types: [t3.medium, {kind}]}}}}
recipes:
  agent: {{script: make.sh, outputs: [{{name: "{{target}}.txt"}}]}}
"""


def plan_of(
    folder: Path, *selectors: str, budget: str = "", kind: str = "t3.large", jobs: int = 9
) -> Plan:
    (folder / "targets.yaml").write_text(TARGETS.format(budget=budget, kind=kind))
    (folder / "make.sh").touch()
    configuration = load(folder, providers=frozenset({"aws", "qemu"}))
    made = make_plan(
        configuration,
        selectors,
        run_id="r",
        run_uuid="0" * 32,
        created_at="now",
        jobs=jobs,
    )
    return priced(made, configuration.budget, PRICES)


def estimate_of(folder: Path, *selectors: str, **how: str | int) -> Estimate:
    found = plan_of(folder, *selectors, **how).estimate  # type: ignore[arg-type]
    assert found is not None
    return found


def test_the_dearest_machines_that_live_at_once_are_counted(tmp_path: Path) -> None:
    """A target may get any of its types; what this host runs costs nothing."""
    both = estimate_of(tmp_path, "*_aws", "debian_bookworm_qemu")
    assert both.machines == 2
    assert both.hourly_usd == pytest.approx(0.1 + 0.2)
    one = estimate_of(tmp_path, "*_aws", jobs=1)
    assert one.machines == 1
    assert one.hourly_usd == pytest.approx(0.2)


def test_machines_that_may_be_kept_live_all_at_once(tmp_path: Path) -> None:
    """However few are built in at a time; the time for which they are kept is paid for, too."""
    plan, kept_s = plan_of(tmp_path, "*_aws", jobs=1), 3600
    told = priced(plan, Budget(max_machines=1), PRICES, kept_s=kept_s).estimate
    assert plan.estimate is not None
    assert told is not None
    assert told.hourly_usd == pytest.approx(0.1 + 0.2)
    assert told.over_budget.startswith("2 machines of aws at once")
    assert told.most_usd - plan.estimate.most_usd == pytest.approx(0.1 + 0.2)


def test_windows_costs_more_for_each_processor(tmp_path: Path) -> None:
    """By the size of the type; a price of the project's own holds whatever runs there."""
    plan = plan_of(tmp_path, "debian_bookworm_aws")
    (build,) = plan.builds
    distro = dataclasses.replace(build.target.distro, windows=True)
    kinds = {**build.target.options, "instance_types": "t3.medium t3.large x9.large"}
    target = dataclasses.replace(build.target, distro=distro, options=kinds)
    windows = dataclasses.replace(plan, builds=(dataclasses.replace(build, target=target),))
    found = priced(windows, Budget(hourly_usd={"t3.large": 0.01}), PRICES).builds[0].hourly_usd
    assert found == {"t3.medium": pytest.approx((0.05 + 2 * 0.03) * 2), "t3.large": 0.01}


def test_the_most_is_all_limits_and_all_attempts(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "debian_bookworm_aws")
    limit_s = plan.builds[0].target.deadlines.limit_s
    assert plan.estimate is not None
    assert plan.estimate.most_usd == pytest.approx(0.1 * 2 * limit_s / 3600, abs=1e-4)
    assert decode(encode(plan)) == plan


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("{max_machines: 1}", "2 machines of aws at once"),
        ("{max_machines: 2, max_hourly_usd: 0.3}", ""),
        ("{max_hourly_usd: 0.29}", "0.3 USD an hour"),
        ("{max_hourly_usd: 0.29, hourly_usd: {t3.large: 0.01}}", ""),
    ],
)
def test_a_budget_refuses_before_anything_starts(tmp_path: Path, budget: str, words: str) -> None:
    """With exit code 2, and what to do; prices of the project's own win."""
    plan = plan_of(tmp_path, "*_aws", budget=f"budget: {budget}")
    if not words:
        check_budget(plan)
        return
    with pytest.raises(UsageError, match=words) as refused:
        check_budget(plan)
    assert refused.value.exit_code == 2
    assert "--jobs" in refused.value.resolution


def test_a_limit_cannot_be_kept_where_a_price_is_not_known(tmp_path: Path) -> None:
    """Nothing is taken for free; without a limit it is only told."""
    unknown = {"kind": "x9.huge", "budget": "budget: {max_hourly_usd: 99}"}
    told = estimate_of(tmp_path, "*_aws", kind="x9.huge")
    assert (told.unknown, told.over_budget) == (("x9.huge in eu-west-1",), "")
    with pytest.raises(UsageError, match=r"no price is known of x9\.huge"):
        check_budget(plan_of(tmp_path, "*_aws", **unknown))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("budget: {max_machines: 0}", "at least 1"),
        ("budget: {hourly_usd: {t3.medium: -1}}", "at least 0"),
        ("budget: {hourly_usd: {medium: 1}}", "a type such as t3.medium"),
        ("budget: {max_machine: 1}", "did you mean max_machines"),
    ],
)
def test_a_wrong_budget_is_told_with_its_place(tmp_path: Path, budget: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        plan_of(tmp_path, "*_aws", budget=budget)
    (problem,) = caught.value.problems
    assert problem.line == 2


def test_the_shipped_table_says_when_and_where_it_was_read() -> None:
    """And has a price of everything that targets.yaml launches."""
    table = shipped()
    assert datetime.date.fromisoformat(table.date) <= datetime.date(2100, 1, 1)
    assert "us-east-1" in table.source
    assert table.regions["us-east-1"] == 1
    assert all(1 <= factor < 2 for factor in table.regions.values())
    targets = load(ROOT, providers=frozenset(PROVIDERS)).targets.values()
    launched = {
        kind for each in targets if each.provider == "aws" for kind in kinds_of(each.options)
    }
    assert {"t3.medium", "m3.medium"} <= launched <= set(table.hour_usd)


def test_a_machine_is_paid_for_from_its_launch_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute at least; one of this host costs nothing; what is told later is known better."""
    now = [100.0]
    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: now[0]))
    identity = Identity(provider="aws", name="a-1", run_uuid="", target="a", attempt=1)
    details = {"instance_type": "t3.medium", "region": "eu-west-1", "market": "spot"}
    clock = meter.Meter({"t3.medium": 36.0})
    clock.start(dataclasses.replace(identity, name="here", details={"pid": "1"}))
    clock.start(dataclasses.replace(identity, details=details))
    now[0] += 2
    clock.start(dataclasses.replace(identity, details={**details, "zone": "eu-west-1a"}))
    clock.start(dataclasses.replace(identity, name="b", details={**details, "instance_type": "x"}))
    now[0] += 3
    clock.stop("a-1")
    clock.stop("here")
    now[0] += 100
    short, other = clock.used()
    assert (short.what, short.seconds, short.usd) == ("t3.medium in eu-west-1a, spot", 5.0, 0.6)
    assert (other.what, other.seconds, other.usd) == ("x in eu-west-1, spot", 103.0, None)
