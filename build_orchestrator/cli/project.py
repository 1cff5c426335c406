"""What most commands begin with: the project, its configuration, and a plan for some targets."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.cloud import endpoint_option, jobs_for, locked, placed, priced
from build_orchestrator.configuration import Configuration, find_project, load, refuse
from build_orchestrator.configuration.words import is_text
from build_orchestrator.errors import UsageError
from build_orchestrator.machine import PROVIDERS

if TYPE_CHECKING:
    from build_orchestrator.machine.contract import Cloud, Notify, Provider
    from build_orchestrator.model import Build, Plan

RUNS = "runs"


def project_of(ctx: click.Context) -> Path:
    """The project's root: ``--project``, or the nearest folder with a targets.yaml."""
    try:
        project = find_project(ctx.obj or Path.cwd())
    except FileNotFoundError as error:
        raise UsageError(
            "the current folder does not exist any more",
            resolution="Change to another, or use `build --project DIR COMMAND`.",
        ) from error
    if not is_text(str(project)):
        raise UsageError(
            f"{str(project)!r}: the name of this folder is not UTF-8, and no plan could hold it",
            resolution="Rename the folder.",
        )
    return project


def configuration_of(ctx: click.Context) -> Configuration:
    """The project's targets.yaml, checked."""
    installed = shutil.which("VBoxManage") and shutil.which("vagrant")
    return load(
        project_of(ctx),
        providers=frozenset(PROVIDERS),
        default_provider="virtualbox" if installed else "qemu",
    )


def configuration_or_none(ctx: click.Context) -> Configuration | None:
    """The same for those who can do without: a broken project is no reason to leave machines."""
    try:
        return configuration_of(ctx)
    except UsageError:
        return None


def plan_of(ctx: click.Context, selectors: tuple[str, ...], options: Mapping[str, Any]) -> Plan:
    """The plan for these selectors and the options of ``plan_options``."""
    from build_orchestrator.doctor import default_jobs
    from build_orchestrator.model import Naming
    from build_orchestrator.plan import SOURCE_DATE_EPOCH, make_plan, select
    from build_orchestrator.provision import host_trust

    configuration = configuration_of(ctx)
    run_uuid = uuid.uuid4().hex
    now = time.gmtime()
    shown, _ = host_trust(os.environ)
    chosen = select(configuration, selectors)
    made = make_plan(
        configuration,
        selectors,
        run_id=f"{time.strftime('%Y%m%dT%H%M%SZ', now)}-{run_uuid[:4]}",
        run_uuid=run_uuid,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", now),
        jobs=options["jobs"]
        or jobs_for(target.provider for target in chosen)
        or default_jobs(target.size for target in chosen if target.provider != "aws"),
        recipe=options["recipe"],
        naming=Naming(
            version=os.environ.get("VERSION", ""),
            prerelease=os.environ.get("PRERELEASE", ""),
            build=os.environ.get("BUILD", ""),
        ),
        settings=_settings(options["settings"]),
        destinations=options["publish_to"] or None,
        no_publish=options["no_publish"],
        host_trust=shown,
        provision_s=options["timeout"],
        source_date_epoch=_epoch(os.environ.get("SOURCE_DATE_EPOCH"), SOURCE_DATE_EPOCH),
    )
    with_images = flavoured(made, configuration, options.get("flavour") or "")
    made = locked(placed(with_images, options["aws_endpoint"] or ""))
    kept_s = options["keep_for"] if options.get("keep", "never") != "never" else 0.0
    return priced(made, configuration.budget, kept_s=kept_s)


def check_images(plan: Plan) -> None:
    """See that what builds are to start from by path is there; who only looks does not need it.

    Raises:
        ConfigurationError: with each path that leads to no file.
    """
    from build_orchestrator.image import lacking

    project = Path(plan.project)
    refuse(
        project,
        {
            ("distros", target.distro.name, "providers", target.provider, "image", field): problem
            for target in (build.target for build in plan.builds)
            for field, problem in lacking(
                target.image, provider=target.provider, project=project
            ).items()
        },
    )


def flavoured(plan: Plan, configuration: Configuration, name: str) -> Plan:
    """The plan with the flavour of baked image for each build that can have it.

    Args:
        name: of the flavour; empty for the recipe's own.

    Raises:
        UsageError: there is no such flavour.
    """
    import dataclasses

    from build_orchestrator.configuration.findings import did_you_mean
    from build_orchestrator.render.packerfile import can_be_baked

    if name and name not in configuration.flavours:
        near = did_you_mean(name, configuration.flavours)
        raise UsageError(f"unknown flavour {name}{near}")

    def having_it(build: Build) -> Build:
        found = configuration.flavours.get(name or build.recipe.flavour)
        if not found or build.target.distro.name not in found.distros:
            return build
        return dataclasses.replace(build, flavour=found) if can_be_baked(build.target) else build

    return dataclasses.replace(plan, builds=tuple(having_it(build) for build in plan.builds))


def plan_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that decide what a plan is."""
    for option in reversed(
        (
            click.argument("selectors", nargs=-1, metavar="SELECTOR..."),
            click.option(
                "-j",
                "--jobs",
                type=click.IntRange(min=1),
                metavar="N",
                help="How many machines at once  [default: by memory and cores]",
            ),
            click.option("--recipe", metavar="NAME", help="What to build  [default: the file's]"),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="A variable for the script; VERSION, PRERELEASE and BUILD name it",
            ),
            click.option(
                "--publish-to",
                multiple=True,
                metavar="URL",
                help="A folder or s3://bucket/prefix, instead of the recipe's",
            ),
            click.option(
                "--no-publish", is_flag=True, help="Leave the artifacts in the run folder"
            ),
            click.option(
                "--timeout",
                type=DURATION,
                metavar="TIME",
                help="Limit of the script, such as 900 or 30m",
            ),
            endpoint_option,
        )
    ):
        command = option(command)
    return command


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], 0)
        try:
            seconds = float(text[:-1]) * unit if unit else float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < 10**7:
            self.fail(f"{value!r} is no time; write seconds, or 90s, 30m, 4h, 1d", param, ctx)
        return seconds


DURATION = Duration()


def provider_maker(notify: Notify, cloud: Cloud | None = None) -> Callable[[str], Provider]:
    """A function from a provider's name to the one provider of that name."""
    from build_orchestrator.machine import make_provider

    made: dict[str, Provider] = {}

    def provider(name: str) -> Provider:
        if name not in made:
            made[name] = make_provider(name, notify=notify, cloud=cloud)
        return made[name]

    return provider


def run_folder(ctx: click.Context, run: str) -> Path:
    """The folder of a run: its id, a unique beginning of it, or the newest where it is empty."""
    from build_orchestrator.history import newest_first

    folders = newest_first(project_of(ctx) / RUNS)
    matching = [path for path in folders if path.name.startswith(run)] if run else folders[:1]
    if len(matching) == 1:
        return matching[0]
    if not folders:
        raise UsageError("there is no run yet", resolution="`build up TARGET` makes one.")
    raise UsageError(
        f"{len(matching) or 'no'} runs begin with {run!r}",
        details="Newest runs: " + ", ".join(path.name for path in folders[:5]),
    )


def _settings(pairs: tuple[str, ...]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: expected KEY=VALUE")
        settings[name] = value
    return settings


def _epoch(text: str | None, default: int) -> int:
    if not text:
        return default
    if not re.fullmatch("[0-9]{1,12}", text):
        raise UsageError(f"SOURCE_DATE_EPOCH={text}: expected seconds since 1970")
    return int(text)
