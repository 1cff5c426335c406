"""``build doctor``: what this host lacks, and how to get it."""

from __future__ import annotations

import dataclasses
import json

import click

from build_orchestrator.errors import ExitCode


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.option("--no-probe", is_flag=True, help="Do not boot a kernel to see whether KVM works")
def doctor(as_json: bool, no_probe: bool) -> int:
    """Say what this host lacks, how to get it, and which providers work.

    Exit 4 where none does.

    \b
    Examples:
      build doctor
      build doctor --json
    """
    from build_orchestrator.doctor import examine, working_providers

    checks = []
    for check in examine(probe=not no_probe):
        checks.append(check)
        if not as_json:
            click.echo(f"{'ok' if check.ok else 'MISSING':<8} {check.name}: {check.finding}")
            if check.remedy:
                click.echo(f"{'':<8} -> {check.remedy}")
    providers = working_providers(checks)
    if as_json:
        rows = [dataclasses.asdict(check) for check in checks]
        click.echo(json.dumps({"checks": rows, "providers": providers}, indent=2))
    else:
        click.echo(f"providers that work: {', '.join(providers) or 'none'}")
    # Whoever has no libvirt has no need of it: one provider that works makes a host of use.
    return ExitCode.OK if providers else ExitCode.HOST_NOT_READY
