"""``build list``, ``plan`` and ``render``: what would be done. They touch no machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.project import configuration_of, plan_of, plan_options, provider_maker
from build_orchestrator.errors import UsageError
from build_orchestrator.render.packerfile import INSIDE, path_of

if TYPE_CHECKING:
    from build_orchestrator.configuration import Configuration
    from build_orchestrator.costs import Estimate
    from build_orchestrator.model import Build, Image, Plan, Target


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

    return {
        "name": target.name,
        "distro": target.distro.name,
        "provider": target.provider,
        "image": describe(target.image),
        "size": f"{_machine(target)}, {_disk(target.size.disk_mib)} disk",
        "notes": ", ".join(_notes(target)),
        "mark": " *" if target.provider == default_provider else "",
    }


def _notes(target: Target) -> Iterator[str]:
    if target.distro.legacy:
        yield "legacy"


def _machine(target: Target) -> str:
    if target.provider == "aws":
        return target.options.get("instance_types", "t3.medium").replace(" ", " or ")
    return f"{target.size.cpus} cpus, {target.size.memory_mib} MiB"


def _disk(disk_mib: int) -> str:
    return f"{disk_mib} MiB" if disk_mib else "its box's"


def _columns(rows: list[dict[str, str]], keys: dict[str, str]) -> None:
    widths = {key: max(len(row[key]) for row in rows) for key in keys}
    for row in rows:
        click.echo("  ".join(row[key].ljust(widths[key]) for key in keys).rstrip())


def _place(target: Target) -> list[tuple[str, str]]:
    """Where a machine of aws is launched."""
    if target.provider != "aws":
        return []
    return [pair for pair in target.options.items() if pair[0] != "instance_types"]


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
    if made.estimate is not None:
        click.echo(_estimate(made.estimate))
    for build in made.builds:
        click.echo(f"\n{build.name}")
        for name, value in _facts(build):
            click.echo(f"  {name:<12} {value}")


def _estimate(estimate: Estimate) -> str:
    machines = f"{estimate.machines} machine{'s' if estimate.machines != 1 else ''}"
    lines = [
        f"at most {machines} of aws at once, about {estimate.hourly_usd:.3g} USD an hour",
        f"  {estimate.most_usd:.3g} USD if every build used up its limits and attempts",
        f"  (list prices of {estimate.prices_of}, on demand, without tax and traffic)",
    ]
    if estimate.unknown:
        lines.append(f"  no price is known of {', '.join(estimate.unknown)}")
    if estimate.over_budget:
        lines.append(f"  `build up` refuses this: {estimate.over_budget}")
    return "\n".join(lines)


def _facts(build: Build) -> list[tuple[str, str]]:
    from build_orchestrator.image import describe

    target, recipe = build.target, build.recipe
    limits = target.deadlines
    folder = build.folder or "dev/<key>"
    return [
        ("recipe", f"{recipe.name}: {recipe.script}"),
        ("image", describe(target.image)),
        ("machine", _machine(target)),
        *((name.replace("_", " "), value) for name, value in _place(target)),
        *(("an hour", f"about {usd:.3g} USD ({kind})") for kind, usd in build.hourly_usd.items()),
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
@click.option(
    "--write",
    is_flag=True,
    help="Write the project's committed files: vagrant/Vagrantfile, packer/*/packerfile.json",
)
@click.option("--check", is_flag=True, help="See that the committed files are what --write makes")
@click.pass_context
def render(
    ctx: click.Context,
    /,
    selectors: tuple[str, ...],
    output: Path | None,
    write: bool,
    check: bool,
    **options: Any,
) -> None:
    """Show the files that builds are made with: the machine's start and the script's environment.

    With --write or --check it is about the files that are committed for people who have only
    Vagrant or Packer; they hold every target, so no SELECTOR is given.

    \b
    Examples:
      build render debian_bookworm_qemu
      build render 'debian_*' -o /tmp/rendered
      build render --write
      build render --check      in CI: exit 2 where targets.yaml has changed and they have not
    """
    if write or check:
        if selectors or output or (write and check):
            raise UsageError("--write and --check stand alone: the files hold every target")
        _committed(ctx, write=write)
        return
    made = plan_of(ctx, selectors, options)
    for build in made.builds:
        for name, text in _rendered(build, made.project).items():
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


def _committed(ctx: click.Context, *, write: bool) -> None:
    """Write the committed files, or raise UsageError where one is not what would be written."""
    from build_orchestrator.configuration.files import place_of

    configuration = configuration_of(ctx)
    project, texts = configuration.project, _texts(configuration)
    strangers = [
        path for path in project.glob(path_of("*")) if str(path.relative_to(project)) not in texts
    ]
    wrong = [str(path) for path in strangers]
    for name, text in texts.items():
        path = project / name
        try:
            same = path.exists() and path.read_text() == text
            if write and not same:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {getattr(error, 'strerror', error)}") from error
        if write or same:
            click.echo(f"{path}: {'current' if same else 'written'}")
        else:
            wrong.append(str(path))
    if write:
        for path in strangers:
            path.unlink()
            click.echo(f"{path}: removed")
        for name in _only_shipped(configuration, texts):
            words = f"Packer without `build` looks for it here: copy {place_of(project, name)}"
            click.echo(f"{project / name}: {words}", err=True)
    elif wrong:
        count = "is" if len(wrong) == 1 else "are"
        raise UsageError(
            f"{', '.join(wrong)} {count} not what targets.yaml makes of it",
            resolution="`build render --write` writes it again; then commit it.",
        )


def _only_shipped(configuration: Configuration, texts: Mapping[str, str]) -> list[str]:
    """What the packerfiles among the committed files name, and the project does not have."""
    baked = {name for name in configuration.distros if path_of(name) in texts}
    flavours = [each for each in configuration.flavours.values() if baked & {*each.distros}]
    named = [INSIDE, *(each.script for each in flavours)] if flavours else []
    return [each for each in dict.fromkeys(named) if not (configuration.project / each).exists()]


def _texts(configuration: Configuration) -> dict[str, str]:
    """The committed files: path in the project -> what targets.yaml makes of it."""
    from build_orchestrator.configuration.files import text_of
    from build_orchestrator.image import lock
    from build_orchestrator.image.bake_inputs import rendered
    from build_orchestrator.plan import SOURCE_DATE_EPOCH
    from build_orchestrator.render.packerfile import can_be_baked
    from build_orchestrator.render.vagrantfile import COMMITTED, TEMPLATE, committed

    project = configuration.project
    known = lock.read(project)
    targets = [lock.with_lock(target, known) for target in configuration.targets.values()]
    recipe = configuration.recipes[configuration.default_recipe]
    texts = {COMMITTED: committed(text_of(project, TEMPLATE), targets, recipe, SOURCE_DATE_EPOCH)}
    for distro in configuration.distros:
        of_it = [each for each in targets if each.distro.name == distro and can_be_baked(each)]
        flavours = [each for each in configuration.flavours.values() if distro in each.distros]
        if of_it and flavours:
            texts[path_of(distro)] = rendered(project, of_it, flavours)
    return texts


def _image(target: Target) -> Image:
    """An image that stands for the one that would be resolved."""
    from build_orchestrator.image import describe
    from build_orchestrator.model import Image, through_vagrant
    from build_orchestrator.render.vagrantfile import box_name

    source = describe(target.image)
    if not through_vagrant(target.provider):
        return Image(source=source, sha256="", disk="DISK")
    version = target.image.version or "VERSION"
    return Image(source=source, sha256="", disk=box_name(target.image), version=version)


def _rendered(build: Build, project: str) -> dict[str, str]:
    from build_orchestrator.machine.contract import MachineRequest, silent
    from build_orchestrator.model import Identity
    from build_orchestrator.render import environment_file

    target = build.target
    request = MachineRequest(
        identity=Identity(
            provider=target.provider, name="NAME", run_uuid="", target=target.name, attempt=1
        ),
        distro=target.distro,
        image=_image(target),
        size=target.size,
        limit_s=target.deadlines.limit_s,
        console=Path("console.txt"),
        communicator=target.communicator,
        options=target.options,
        project=Path(project),
    )
    provider = provider_maker(silent)(target.provider)
    return {**environment_file(build), **provider.rendered(request)}
