"""``build bake``: images that hold the prerequisites already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from build_orchestrator.cli.cloud import check_budget, endpoint_option, take_old_name
from build_orchestrator.cli.project import check_images, plan_of
from build_orchestrator.cli.streams import say
from build_orchestrator.cli.up import Invocation, check_files, secrets_of
from build_orchestrator.errors import UsageError

NOTHING_ELSE = {"settings": (), "publish_to": (), "no_publish": True, "timeout": None}
"""What a plan can be told, and a bake cannot."""


@click.command()
@click.argument("selectors", nargs=-1, metavar="SELECTOR...")
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many at once  [default: by memory and cores]",
)
@click.option("--recipe", metavar="NAME", help="Whose flavour  [default: the default recipe's]")
@click.option("--flavour", metavar="NAME", help="What to bake, instead of the recipe's flavour")
@click.option("--force", is_flag=True, help="Also where a fresh image is there")
@click.option("--dry-run", is_flag=True, help="Say what would be baked, and why")
@click.option("--events", metavar="FILE|-", help="Write every event as a line of JSON")
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a JUnit report here, too",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON at the end")
@click.option("-v", "--verbose", count=True, help="Say more")
@click.option("-q", "--quiet", count=True, help="Say only how it ended")
@endpoint_option
@click.pass_context
def bake(ctx: click.Context, /, selectors: tuple[str, ...], **options: Any) -> int:
    """Make the image of each target with Packer: its base image with the prerequisites installed.

    From then on `build up` starts from it, as long as it is fresh: until its base image, script,
    packages, template or distro change, or it is older than max_image_age. A fresh one is not made
    again. What goes into it is a flavour of targets.yaml.

    \b
    Examples:
      build bake debian_bookworm_qemu
      build bake 'debian_*_qemu' -j2
      build bake debian_bookworm_qemu --flavour docker
      build why --image debian_bookworm      what has changed since

    \b
    Exit codes: 0 every image is fresh; 1 a script failed; 2 usage or configuration;
    3 the environment failed, try again; 4 this host is not ready; 5 a machine may still be alive.
    """
    from build_orchestrator import doctor
    from build_orchestrator.cli.images import show_freshness
    from build_orchestrator.pipeline.run import Settings
    from build_orchestrator.pipeline.schedule import BAKING

    take_old_name(lambda text: say(text, err=True))
    plan = plan_of(ctx, selectors, {**options, **NOTHING_ELSE})
    unbaked = [build.name for build in plan.builds if build.flavour is None]
    if unbaked:
        wanted = options["flavour"] or plan.builds[0].recipe.flavour
        raise UsageError(
            f"no image is baked for {', '.join(unbaked)}",
            details=f"flavour {wanted!r}" if wanted else "The recipe names no flavour.",
            resolution="See flavours in targets.yaml: name one with --flavour, or add the distro.",
        )
    check_images(plan)
    secrets = secrets_of(plan)
    check_files(plan, options)
    if options["dry_run"]:
        show_freshness(plan)
        return 0
    check_budget(plan)
    doctor.require(plan, baking=True, booting=False)
    settings = Settings(force=options["force"])
    return Invocation(plan, secrets, settings, BAKING, options).go()
