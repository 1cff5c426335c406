"""``build lock``: write down which images names mean now."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from build_orchestrator.cli.cloud import endpoint_here, endpoint_option, region_of, take_old_name
from build_orchestrator.cli.project import configuration_of
from build_orchestrator.cli.streams import say
from build_orchestrator.errors import ExitCode, OrchestratorError, UsageError

if TYPE_CHECKING:
    from build_orchestrator.configuration import Configuration
    from build_orchestrator.image.lock import Key, Locked
    from build_orchestrator.model import Target

LOOK_UP_S = 60.0


@click.command()
@click.argument("selectors", nargs=-1, metavar="[SELECTOR...]")
@click.option("--dry-run", is_flag=True, help="Show what would be locked, write nothing")
@endpoint_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def lock(
    ctx: click.Context,
    selectors: tuple[str, ...],
    dry_run: bool,
    aws_endpoint: str | None,
    as_json: bool,
) -> int:
    """Ask AWS which images the names in targets.yaml mean, and write it to images.lock.yaml.

    From then on `build up` starts from these, on every host, until somebody locks again. Without
    SELECTOR every target of aws is locked, and what no target names any more is dropped.

    \b
    Examples:
      build lock
      build lock debian_bookworm_aws
      build lock --dry-run        has anything newer come?
    """
    from build_orchestrator.image import lock as locks
    from build_orchestrator.machine.ec2.api import check_credentials

    take_old_name(lambda text: say(text, err=True))
    configuration = configuration_of(ctx)
    before = locks.read(configuration.project)
    wanted = _wanted(configuration, selectors)
    check_credentials()
    found: dict[Key, Locked] = {}
    failed: list[str] = []
    for (name, region, _), targets in wanted.items():
        try:
            each = _look_up(targets, region, endpoint_here(aws_endpoint or ""))
            found[each.key] = each
        except OrchestratorError as error:
            failed.append(f"{name} in {region}: {error}")
    kept = {key: each for key, each in before.items() if selectors or key in wanted}
    if not dry_run and (found or before):
        locks.write(configuration.project, {**kept, **found}.values())
    if as_json:
        rows = [dataclasses.asdict(each) for each in found.values()]
        say(json.dumps({"locked": rows, "failed": failed}, indent=2))
    else:
        for key, each in found.items():
            say(_line(each, before.get(key)))
        for text in failed:
            say(f"failed     {text}", err=True)
    return ExitCode.ENVIRONMENT if failed else ExitCode.OK


def _line(now: Locked, before: Locked | None) -> str:
    state = "new" if before is None else "same" if before.ami == now.ami else "changed"
    was = f", was {before.ami}" if before is not None and before.ami != now.ami else ""
    return f"{state:<10} {now.image} in {now.region}: {now.ami} ({now.name}){was}"


def _wanted(configuration: Configuration, selectors: tuple[str, ...]) -> dict[Key, list[Target]]:
    """The targets by the image that they start from.

    Raises:
        UsageError: one has no image that can be locked, or no region; or there is none at all.
    """
    from build_orchestrator.image.lock import key_of
    from build_orchestrator.plan import select

    every = tuple(configuration.targets.values())
    chosen = select(configuration, selectors) if selectors else every
    other = [target.name for target in chosen if target.provider != "aws"]
    if selectors and other:
        raise UsageError(
            f"only images of aws are locked, not those of {', '.join(other)}",
            details="A box has its version in targets.yaml, and a disk its checksum.",
        )
    wanted: dict[Key, list[Target]] = {}
    for target in chosen:
        if target.provider == "aws":
            wanted.setdefault(key_of(target, region_of(target)), []).append(target)
    if not wanted:
        raise UsageError("targets.yaml has no target of aws, so there is nothing to lock")
    return wanted


def _look_up(targets: list[Target], region: str, endpoint: str) -> Locked:
    """What AWS has for the image of these targets; each of their types must be able to start it."""
    from build_orchestrator.deadline import NEVER, Deadline
    from build_orchestrator.image import describe
    from build_orchestrator.image.lock import Locked
    from build_orchestrator.machine.ec2 import images

    first = targets[0]
    kinds = " ".join(target.options.get("instance_types", "") for target in targets)
    found = images.look_up(
        first.image,
        arch=first.distro.arch,
        where={"region": region, "endpoint": endpoint, "instance_types": kinds},
        deadline=Deadline("image", LOOK_UP_S),
        cancel=NEVER,
    )
    return Locked(
        image=describe(first.image),
        region=region,
        arch=first.distro.arch,
        ami=found["ImageId"],
        name=found.get("Name", ""),
        created=found.get("CreationDate", ""),
    )
