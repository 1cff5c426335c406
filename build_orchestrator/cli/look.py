"""``build list``, ``plan`` and ``render``: what would be done. They touch no machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.project import configuration_of, plan_of, plan_options, provider_maker
from build_orchestrator.errors import UsageError

if TYPE_CHECKING:
    from build_orchestrator.model import Build, Plan, Target


@click.command("list")
@click.argument("selectors", nargs=-1, metavar="[SELECTOR...]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def list_targets(ctx: click.Context, selectors: tuple[str, ...], as_json: bool) -> None:
    """Show every target, or those that selectors mean; a star marks the default provider's.

    \b
    Examples:
      build list
      build list 'debian_*' --json
    """
    configuration = configuration_of(ctx)
    targets = tuple(configuration.targets.values())
    if selectors:
        from build_orchestrator.plan import select

        targets = select(configuration, selectors)
    rows = [_row(target, configuration.default_provider) for target in targets]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    heads = {"name": "TARGET", "image": "STARTS FROM", "size": "MACHINE", "notes": "NOTES"}
    _columns([heads, *({**row, "name": f"{row['name']}{row['mark']}"} for row in rows)], heads)


def _row(target: Target, default_provider: str) -> dict[str, str]:
    from build_orchestrator.image import describe

    size = target.size
    return {
        "name": target.name,
        "distro": target.distro.name,
        "provider": target.provider,
        "image": describe(target.image),
        "size": f"{size.cpus} cpus, {size.memory_mib} MiB, {size.disk_mib} MiB disk",
        "notes": "legacy" if target.distro.legacy else "",
        "mark": " *" if target.provider == default_provider else "",
    }


def _columns(rows: list[dict[str, str]], keys: dict[str, str]) -> None:
    widths = {key: max(len(row[key]) for row in rows) for key in keys}
    for row in rows:
        click.echo("  ".join(row[key].ljust(widths[key]) for key in keys).rstrip())


@click.command()
@plan_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON")
@click.pass_context
def plan(ctx: click.Context, /, selectors: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Show what a run would do: every build with its machine, script, outputs and destinations.

    \b
    Examples:
      build plan debian_bookworm_qemu
      VERSION=7.1.0 build plan 'debian_*' --json
    """
    made = plan_of(ctx, selectors, options)
    if as_json:
        from build_orchestrator.plan import encode

        click.echo(encode(made))
    else:
        show_plan(made)


def show_plan(made: Plan) -> None:
    """Print a plan for a person."""
    count = len(made.builds)
    click.echo(f"{count} build{'s' if count != 1 else ''}, {made.jobs} at a time")
    for build in made.builds:
        click.echo(f"\n{build.name}")
        for name, value in _facts(build):
            click.echo(f"  {name:<12} {value}")


def _facts(build: Build) -> list[tuple[str, str]]:
    from build_orchestrator.image import describe

    target, recipe = build.target, build.recipe
    limits = target.deadlines
    folder = build.folder or "dev/<key>"
    return [
        ("recipe", f"{recipe.name}: {recipe.script}"),
        ("image", describe(target.image)),
        ("machine", f"{target.size.cpus} cpus, {target.size.memory_mib} MiB"),
        ("limits", f"boot {limits.boot_s:g} s, script {limits.provision_s:g} s"),
        ("inputs", ", ".join(recipe.inputs)),
        *(("output", output.name) for output in build.outputs),
        *(("publish to", f"{place.rstrip('/')}/{folder}/") for place in recipe.destinations),
        *(("variable", f"{name}={value}") for name, value in build.environment.items()),
        *(("host trust", f"{name}={value}") for name, value in build.host_trust.items()),
        *(("secret", name) for name in recipe.secrets),
    ]


@click.command()
@plan_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the files here, in a folder for each target, instead of printing them",
)
@click.pass_context
def render(
    ctx: click.Context, /, selectors: tuple[str, ...], output: Path | None, **options: Any
) -> None:
    """Show the files that builds are made with: the machine's start and the script's environment.

    \b
    Examples:
      build render debian_bookworm_qemu
      build render 'debian_*' -o /tmp/rendered
    """
    for build in plan_of(ctx, selectors, options).builds:
        for name, text in _rendered(build).items():
            if output is None:
                click.echo(f"# --- {build.name}/{name}")
                click.echo(text)
            else:
                folder = output / build.name
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_text(text)
                except OSError as error:
                    raise UsageError(f"{folder / name}: {error.strerror}") from error


def _rendered(build: Build) -> dict[str, str]:
    from build_orchestrator.image import describe
    from build_orchestrator.machine.contract import MachineRequest, silent
    from build_orchestrator.model import Identity, Image
    from build_orchestrator.render import environment_file

    target = build.target
    request = MachineRequest(
        identity=Identity(
            provider=target.provider, name="NAME", run_uuid="", target=target.name, attempt=1
        ),
        distro=target.distro,
        image=Image(source=describe(target.image), sha256="", disk="DISK"),
        size=target.size,
        limit_s=target.deadlines.limit_s,
        console=Path("console.txt"),
        options=target.options,
    )
    provider = provider_maker(silent)(target.provider)
    return {"environment.sh": environment_file(build), **provider.rendered(request)}
