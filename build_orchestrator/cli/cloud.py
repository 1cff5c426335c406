"""Where AWS is, as this host has it: region, endpoint, and the old name of a secret."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from build_orchestrator.errors import UsageError

if TYPE_CHECKING:
    from build_orchestrator.configuration import Configuration
    from build_orchestrator.costs import Budget
    from build_orchestrator.machine.contract import Cloud
    from build_orchestrator.model import Build, Plan, Target

ENDPOINT = re.compile(r"https?://([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?/?")
REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-[0-9]")
MOST_JOBS = 64
"""So many machines of AWS at once, unless --jobs says otherwise."""

endpoint_option = click.option(
    "--aws-endpoint",
    metavar="URL",
    help="Another AWS than Amazon's own, for machines and S3  [env: AWS_ENDPOINT_URL]",
)


def placed(plan: Plan, endpoint: str) -> Plan:
    """The plan with region and endpoint for each target of aws: decided before anything starts,
    and kept with what is launched, so that any later sweep knows where to look.

    Raises:
        UsageError: no region is known, zones are not the region's, or the endpoint is malformed.
    """
    if not any(build.target.provider == "aws" for build in plan.builds):
        return plan
    here = {"region": region_here(), "endpoint": endpoint_here(endpoint)}
    builds = tuple(_placed(build, here) for build in plan.builds)
    lost = [build.name for build in builds if _is_lost(build)]
    if lost:
        raise _no_region(lost)
    if elsewhere := [build.name for build in builds if _is_elsewhere(build.target)]:
        raise UsageError(
            f"launch.zones of {', '.join(elsewhere)} are not of region {here['region']}",
            resolution="Set launch.region in targets.yaml beside them, or another AWS_REGION.",
        )
    return dataclasses.replace(plan, builds=builds)


def _no_region(names: list[str]) -> UsageError:
    return UsageError(
        f"in which region of AWS? {', '.join(names)} names none",
        resolution="Set launch.region in targets.yaml, or AWS_REGION.",
    )


def region_of(target: Target) -> str:
    """The region of a target of aws.

    Raises:
        UsageError: neither it nor this host names one.
    """
    if region := target.options.get("region") or region_here():
        return region
    raise _no_region([target.name])


def locked(plan: Plan) -> Plan:
    """The plan with the images that images.lock.yaml names for targets of aws.

    Raises:
        ConfigurationError: the lock is wrong.
    """
    if not any(build.target.provider == "aws" for build in plan.builds):
        return plan
    from build_orchestrator.image import lock

    known = lock.read(Path(plan.project))
    builds = tuple(
        dataclasses.replace(build, target=lock.with_lock(build.target, known))
        for build in plan.builds
    )
    return dataclasses.replace(plan, builds=builds)


def priced(plan: Plan, budget: Budget, *, kept_s: float = 0.0) -> Plan:
    """The plan with what its machines of aws would cost; as it is where it has none.

    Args:
        kept_s: for so long a machine may be kept after its build.
    """
    if not any(build.target.provider == "aws" for build in plan.builds):
        return plan
    from build_orchestrator.machine.ec2 import prices

    return prices.priced(plan, budget, prices.shipped(), kept_s=kept_s)


def check_budget(plan: Plan) -> None:
    """Raise UsageError where the plan is over the project's budget."""
    if plan.estimate is not None and plan.estimate.over_budget:
        raise UsageError(
            f"over the budget; nothing was started: {plan.estimate.over_budget}",
            resolution="Give fewer --jobs or smaller launch.instance_types, keep no machine, or "
            "raise the budget in targets.yaml.\n"
            "A price that is not known stands there as budget.hourly_usd.",
        )


def _placed(build: Build, here: dict[str, str]) -> Build:
    target = build.target
    if target.provider != "aws":
        return build
    options = {**{name: value for name, value in here.items() if value}, **target.options}
    return dataclasses.replace(build, target=dataclasses.replace(target, options=options))


def _is_lost(build: Build) -> bool:
    return build.target.provider == "aws" and not build.target.options.get("region")


def _is_elsewhere(target: Target) -> bool:
    region, zones = target.options.get("region", ""), target.options.get("zones", "")
    return not all(zone.startswith(region) for zone in zones.split())


def region_here() -> str:
    """The region that this host means; empty where nothing says."""
    import configparser

    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        if region := os.environ.get(name):
            return _checked_region(region, name)
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    section = profile if profile == "default" else f"profile {profile}"
    # Read here and not by boto3, which takes half a second to say it.
    parser = configparser.RawConfigParser()
    try:
        parser.read(Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser())
        return parser.get(section, "region", fallback="")
    except (configparser.Error, UnicodeDecodeError, RuntimeError):
        return ""


def _checked_region(region: str, name: str) -> str:
    if REGION.fullmatch(region) is None:
        raise UsageError(f"{name}={region}: expected a region such as eu-west-1")
    return region


def endpoint_here(given: str) -> str:
    """Where EC2 is: as given, else as the environment has it; empty for Amazon's own."""
    variables = ("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL")
    found = given or next((os.environ[name] for name in variables if os.environ.get(name)), "")
    if found and ENDPOINT.fullmatch(found) is None:
        raise UsageError(
            "the endpoint of AWS is not of the form http://host:port or https://host",
            resolution="Correct --aws-endpoint, AWS_ENDPOINT_URL_EC2 or AWS_ENDPOINT_URL.",
        )
    return found.rstrip("/")


def jobs_for(providers: Iterable[str]) -> int:
    """How many builds at once, where none of them has its machine on this host; else 0."""
    found = list(providers)
    return min(len(found), MOST_JOBS) if set(found) == {"aws"} else 0


def cloud_of(configuration: Configuration | None, endpoint: str, regions: tuple[str, ...]) -> Cloud:
    """Where to look for what was left in AWS: in the regions given, else in the project's and ours.

    Raises:
        UsageError: there is none.
    """
    from build_orchestrator.machine.contract import Cloud

    if not regions:
        targets = configuration.targets.values() if configuration else ()
        own = [each.options.get("region", "") for each in targets if each.provider == "aws"]
        regions = tuple(dict.fromkeys(region for region in (*own, region_here()) if region))
    if not regions:
        raise UsageError("in which region of AWS?", resolution="Give --region, or set AWS_REGION.")
    return Cloud(endpoint=endpoint_here(endpoint), regions=regions)


def take_old_name(warn: Callable[[str], None]) -> None:
    """AWS_ACCESS_KEY is what older scripts called the secret key; take it, and say so."""
    old = os.environ.get("AWS_ACCESS_KEY")
    if not old or os.environ.get("AWS_SECRET_ACCESS_KEY") or os.environ.get("AWS_PROFILE"):
        return
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        os.environ["AWS_SECRET_ACCESS_KEY"] = old
        warn("AWS_ACCESS_KEY is taken as the secret key; call it AWS_SECRET_ACCESS_KEY")
