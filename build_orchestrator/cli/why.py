"""``build why``: what has changed since a target was built, or an image baked."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.images import show_why_image
from build_orchestrator.cli.project import RUNS, plan_of, plan_options
from build_orchestrator.cli.streams import say
from build_orchestrator.errors import UsageError

if TYPE_CHECKING:
    from build_orchestrator.model import Build, Image, Plan

OUTSIDE = (
    "not compared: packages of the distribution, which its mirror changes; "
    "they count as the same for one period of max_artifact_age"
)


@click.command()
@plan_options
@click.option("--image", "distro", metavar="DISTRO", help="Of a distro's or target's baked images")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def why(
    ctx: click.Context,
    /,
    selectors: tuple[str, ...],
    distro: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say what has changed since a target was last built here, or its image baked.

    It compares with the newest run that has built the target; touches no machine and no cloud.

    \b
    Examples:
      build why debian_bookworm_qemu
      build why 'debian_*_qemu' --json
      build why --image debian_bookworm
    """
    if distro:
        if selectors:
            raise UsageError("give targets or --image DISTRO, not both")
        show_why_image(ctx, distro, as_json=as_json)
        return
    plan = plan_of(ctx, selectors, options)
    found = [_compared(plan, build) for build in plan.builds]
    if as_json:
        say(json.dumps([dataclasses.asdict(each) for each in found], indent=2))
        return
    for each in found:
        for line in each.words():
            say(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A build as it would be now, held against the last one."""

    target: str
    last_run: str | None
    """None where no run here has built it."""
    always_built: bool
    changes: tuple[str, ...]
    image_known: bool

    def words(self) -> Iterator[str]:
        """What a person should know of it."""
        if self.last_run is None:
            yield f"{self.target}: no run here has built it"
            return
        same = "nothing has changed" if not self.changes else "has changed"
        yield f"{self.target}: {same} since run {self.last_run}"
        yield from (f"  {line}" for line in self.changes)
        if not self.image_known:
            yield "  image: not on this host, so it was not compared"
        if self.always_built:
            yield "  built every time: its recipe has no requirements_lock"
        yield f"  {OUTSIDE}"


def _compared(plan: Plan, build: Build) -> Comparison:
    from build_orchestrator.history import last_build
    from build_orchestrator.inputs import RUN, can_match, explain, inputs_of

    project = Path(plan.project)
    last = last_build(project / RUNS, build.name)
    image = _start_of(project, build)
    before = last[1].inputs if last else ()
    now = inputs_of(build, project, image or _no_image(), nonce=plan.run_uuid, now=plan.created_at)
    if image is None:
        was = next((each for each in before if each.name == "image"), None)
        now = tuple(was if was and each.name == was.name else each for each in now)
    return Comparison(
        target=build.name,
        last_run=last[0] if last else None,
        always_built=not can_match(now),
        changes=explain(
            [each for each in before if each.name != RUN],
            [each for each in now if each.name != RUN],
        )
        if last
        else (),
        image_known=image is not None,
    )


def _start_of(project: Path, build: Build) -> Image | None:
    """What a build would start from, as far as this host can tell without fetching anything."""
    from build_orchestrator.image import baked, known
    from build_orchestrator.image.bake_inputs import bake_inputs
    from build_orchestrator.image.lock import known_images

    base = known(build.target.image, provider=build.target.provider)
    if base is None or build.flavour is None:
        return base
    inputs = bake_inputs(build, project, base)
    fresh = baked.choose(build, inputs, known_images(build.target, project)).image
    if fresh is None:
        return base
    return dataclasses.replace(base, sha256=fresh.sha256, source=f"{fresh.ami}, {fresh.title}")


def _no_image() -> Image:
    from build_orchestrator.model import Image

    return Image(source="", sha256="", disk="")
