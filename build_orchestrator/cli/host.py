"""``build doctor``: what this host lacks, and how to get it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.cloud import cloud_of, endpoint_option, take_old_name
from build_orchestrator.cli.project import configuration_or_none
from build_orchestrator.cli.streams import say
from build_orchestrator.errors import ExitCode

if TYPE_CHECKING:
    from build_orchestrator.doctor import Check


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.option("--no-probe", is_flag=True, help="Do not boot a kernel to see whether KVM works")
@click.option(
    "--provider",
    type=click.Choice(["aws"]),
    help="Look at AWS instead: may this account do what builds need?",
)
@click.option(
    "--region", multiple=True, metavar="REGION", help="Of AWS  [default: the project's and ours]"
)
@endpoint_option
@click.pass_context
def doctor(
    ctx: click.Context,
    as_json: bool,
    no_probe: bool,
    provider: str | None,
    region: tuple[str, ...],
    aws_endpoint: str | None,
) -> int:
    """Say what this host lacks, how to get it, and which providers work.

    Exit 4 where none does. With --provider aws nothing is made in AWS: it is asked what it would
    say (DryRun), and the smallest IAM policy for builds is printed; exit 4 where something is
    missing.

    \b
    Examples:
      build doctor
      build doctor --json
      build doctor --provider aws --region eu-west-1
    """
    if provider:
        take_old_name(lambda text: say(text, err=True))
        return _aws(ctx, aws_endpoint or "", region, as_json)
    from build_orchestrator.doctor import examine, working_providers

    checks = _shown(examine(probe=not no_probe), as_json)
    providers = working_providers(checks)
    if as_json:
        _print_json(checks, {"providers": providers})
    else:
        click.echo(f"providers that work: {', '.join(providers) or 'none'}")
    # Whoever has no libvirt has no need of it: one provider that works makes a host of use.
    return ExitCode.OK if providers else ExitCode.HOST_NOT_READY


def _aws(ctx: click.Context, endpoint: str, regions: tuple[str, ...], as_json: bool) -> int:
    from build_orchestrator.doctor import examine_aws
    from build_orchestrator.machine.ec2.permissions import policy

    configuration = configuration_or_none(ctx)
    cloud = cloud_of(configuration, endpoint, regions)
    every = configuration.targets.values() if configuration else ()
    targets = [target for target in every if target.provider == "aws"]
    checks = _shown(examine_aws(cloud, targets), as_json)
    document = policy(
        parameters=any(each.image.ami_parameter for each in targets),
        passwords=any(each.communicator == "winrm" for each in targets),
    )
    if as_json:
        _print_json(checks, {"policy": document})
    else:
        click.echo(f"the smallest policy for builds:\n{json.dumps(document, indent=2)}")
    return ExitCode.OK if all(check.ok for check in checks) else ExitCode.HOST_NOT_READY


def _shown(found: Iterable[Check], as_json: bool) -> list[Check]:
    """Every check; for a person each is printed as soon as it is made."""
    checks = []
    for check in found:
        checks.append(check)
        if not as_json:
            click.echo(f"{'ok' if check.ok else 'MISSING':<8} {check.name}: {check.finding}")
            if check.remedy:
                click.echo(f"{'':<8} -> {check.remedy}")
    return checks


def _print_json(checks: list[Check], more: dict[str, Any]) -> None:
    rows = [dataclasses.asdict(check) for check in checks]
    click.echo(json.dumps({"checks": rows, **more}, indent=2))
