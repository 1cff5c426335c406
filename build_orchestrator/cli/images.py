"""``build images`` and ``build why --image``: what was baked, and whether it is fresh."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.cloud import region_here, take_old_name
from build_orchestrator.cli.project import configuration_of
from build_orchestrator.cli.streams import say
from build_orchestrator.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from build_orchestrator.configuration import Configuration
    from build_orchestrator.image.baked import Baked, Choice
    from build_orchestrator.model import Build, Plan, Target

LOCK = "images.lock.yaml"
REMOVED_S = 300.0
HEADS = ("target", "flavour", "state", "age", "size", "users", "image")


# --- build images -------------------------------------------------------------------------------


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def images(ctx: click.Context, as_json: bool) -> None:
    """Show the images that were baked: age, size, state and users.

    Those of this host, and those of AWS that images.lock.yaml names. Fresh: `build up` starts from
    it. Stale: what it is made of has changed, it is too old, or the checkout that baked it is gone.
    Superseded: there is a newer one of the same. Other: another project's.

    \b
    Examples:
      build images
      build images --json
      build images prune --dry-run
    """
    if ctx.invoked_subcommand is not None:
        return
    rows = [_row(image, state) for image, state in _states(ctx)]
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    if not rows:
        say("no image was baked yet; `build bake TARGET` makes one")
        return
    table = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADS))]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        say("  ".join(cells).rstrip())


def _row(image: Baked, state: str) -> dict[str, Any]:
    from build_orchestrator.image.baked import to_json

    return {
        "entry": image.entry,
        "state": state,
        "age_s": round(image.age_s(time.time())),
        "users": _users(image),
        **to_json(image),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from build_orchestrator.report.characters import duration, size

    return (
        row["target"],
        row["flavour"],
        row["state"],
        duration(row["age_s"]),
        size(row["size_bytes"]),
        ", ".join(row["users"]) or "-",
        row["ami"] or row["entry"],
    )


@images.command()
@click.option("--dry-run", is_flag=True, help="List, remove nothing")
@click.option("--now", is_flag=True, help="Also images of AWS younger than max_image_age")
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def prune(ctx: click.Context, dry_run: bool, now: bool, as_json: bool) -> int:
    """Remove this project's images that no build starts from any more: stale and superseded ones.

    Disks and boxes go from the cache, boxes from Vagrant's collection, too, and images of AWS with
    their snapshots from AWS. One that is fresh stays, and so does one that images.lock.yaml names,
    from which a living machine was started, or that a living run bakes or is to start from. What
    killed makers of images and saved first starts have left in the cache goes, too.

    Another checkout, or another branch, may have an images.lock.yaml that names an older image of
    AWS. So these stay until they are older than max_image_age, when nobody starts from them.

    \b
    Examples:
      build images prune --dry-run
      build images prune
      build images prune --now      no other checkout needs them
    """
    take_old_name(lambda text: say(text, err=True))
    configuration = configuration_of(ctx)
    lock = configuration.project / LOCK
    # All flavours have the same largest age; a project that has none now cannot tell.
    ages_s = [each.max_age_s for each in configuration.flavours.values()]
    shared_s = 0.0 if now else max(ages_s, default=math.inf)
    rows = _unfinished(dry_run=dry_run)
    rows += [
        _pruned(image, state, lock, shared_s, dry_run=dry_run)
        for image, state in _states(ctx)
        if state in ("stale", "superseded")
    ]
    failed = any(row["state"] == "failed" for row in rows)
    if as_json:
        say(json.dumps(rows, indent=2))
    else:
        for row in rows:
            name = "  ".join(filter(None, (row["target"], row["entry"])))
            say(f"{row['state']:<8} {name}  ({row['reason']})")
        if not rows:
            say("nothing is stale, superseded or unfinished")
    return ExitCode.ENVIRONMENT if failed else ExitCode.OK


def _unfinished(*, dry_run: bool) -> list[dict[str, str]]:
    """A row for each entry of the cache, of any kind, that was not finished and has no maker."""
    from build_orchestrator import cache

    left = cache.unfinished()
    if not dry_run:
        cache.sweep_unfinished()
    rows = []
    for place in left:
        state = "found" if dry_run else "failed" if place.exists() else "removed"
        entry = f"{place.parent.name}/{place.name}"
        rows.append({"entry": entry, "target": "", "state": state, "reason": "unfinished"})
    return rows


def _pruned(
    image: Baked, state: str, lock: Path, shared_s: float, *, dry_run: bool
) -> dict[str, str]:
    """The row of an image that nobody should need, which is gone then unless somebody does."""
    from build_orchestrator.deadline import Deadline
    from build_orchestrator.errors import OrchestratorError
    from build_orchestrator.image.baked import alone_with, remove

    row = {"entry": image.entry, "target": image.target}
    with alone_with(image) as alone:
        # Only now: who has just baked it has written its row before anybody is alone with it.
        named = lock.read_text(errors="replace") if lock.is_file() else ""
        reason = _spared(image, named, shared_s) if alone else "a living run bakes it or needs it"
        if reason:
            return {**row, "state": "spared", "reason": reason}
        if dry_run:
            return {**row, "state": "found", "reason": state}
        try:
            remove(image, deadline=Deadline("image", REMOVED_S, f"{image.entry} to be removed"))
        except OrchestratorError as error:
            return {**row, "state": "failed", "reason": error.brief}
    return {**row, "state": "removed", "reason": state}


def _spared(image: Baked, named: str, shared_s: float) -> str:
    """Why a stale image stays; nothing where it goes. An image of AWS is shared for a time."""
    if any(each and each in named for each in (image.ami, image.sha256)):
        return f"{LOCK} names it"
    if users := _users(image):
        return f"in use by {', '.join(users)}"
    if image.ami and image.age_s(time.time()) <= shared_s:
        return f"another checkout's {LOCK} may name it until max_image_age; --now removes it"
    return ""


def _users(image: Baked) -> list[str]:
    """The machines that are alive, as far as journals know, and were started from this image."""
    from build_orchestrator.sweep import alive_machines

    places = {str(image.folder / image.file) if image.file else image.ami}
    return [
        entry.identity.name
        for entry in alive_machines(None)
        if entry.request.get("image", {}).get("disk") in places
        or (image.sha256 and entry.request.get("image", {}).get("sha256") == image.sha256)
    ]


# --- which is fresh -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Freshness:
    """A target's image of one flavour."""

    build: Build
    choice: Choice
    base_known: bool

    def words(self) -> Iterator[str]:
        """What a person should know of it."""
        flavour = self.build.flavour
        assert flavour is not None
        if self.choice.image is not None:
            yield f"{self.build.name}: fresh, {self.choice.image.title}"
        elif self.choice.changes:
            yield f"{self.build.name}: stale"
            yield from (f"  {line}" for line in self.choice.changes)
        else:
            yield f"{self.build.name}: no {flavour.name} image, {self.choice.reason}"
        if not self.base_known:
            yield "  base image: not on this host, so it was not compared"


def _states(ctx: click.Context) -> Iterator[tuple[Baked, str]]:
    """Every image that this host knows, newest first, with what it is to this project."""
    from build_orchestrator.image.baked import all_images
    from build_orchestrator.image.lock import baked_in

    configuration = configuration_of(ctx)
    project = str(configuration.project)
    # Before it is asked which are fresh: one that is baked meanwhile is not judged at all.
    here = all_images()
    baked_here = {image.ami for image in here}
    locked = [each for each in baked_in(configuration.project) if each.ami not in baked_here]
    fresh = set()
    for each in _freshness(configuration.project, _builds(configuration)):
        if each.choice.image is not None:
            fresh.add(each.choice.image.entry)
    newer: set[str] = set()
    for image in sorted([*here, *locked], key=lambda each: each.made_at, reverse=True):
        if image.entry in fresh:
            state = "fresh"
        elif image.project != project and (image.ami or Path(image.project).is_dir()):
            state = "other"  # Whatever it is there, it is not ours to judge.
        elif image.key in newer:
            state = "superseded"
        else:
            state = "stale"
        if image.project == project:
            newer.add(image.key)
        yield image, state


def _builds(configuration: Configuration) -> list[Build]:
    """Each target with each flavour that can be baked for it."""
    from build_orchestrator.image import lock
    from build_orchestrator.model import Build, Naming
    from build_orchestrator.render.packerfile import can_be_baked

    recipe = configuration.recipes[configuration.default_recipe]
    known = lock.read(configuration.project)
    return [
        Build(
            target=lock.with_lock(_placed(target), known),
            recipe=recipe,
            naming=Naming(),
            outputs=(),
            environment={},
            flavour=flavour,
        )
        for target in configuration.targets.values()
        for flavour in configuration.flavours.values()
        if can_be_baked(target) and target.distro.name in flavour.distros
    ]


def _placed(target: Target) -> Target:
    """A target of aws where this host would launch it."""
    if target.provider != "aws" or target.options.get("region"):
        return target
    return dataclasses.replace(target, options={**target.options, "region": region_here()})


def _freshness(project: Path, builds: Iterable[Build]) -> Iterator[Freshness]:
    """Whether each build has a fresh image, as far as this host can tell without fetching."""
    from build_orchestrator.image import known
    from build_orchestrator.image.bake_inputs import bake_inputs
    from build_orchestrator.image.baked import choose, images_for
    from build_orchestrator.image.lock import known_images

    for build in builds:
        base = known(build.target.image, provider=build.target.provider)
        inputs = bake_inputs(build, project, base)
        baked = known_images(build.target, project)
        if base is None and (made := images_for(build, baked)):
            # What cannot be compared is taken to be the same, and said to be unknown.
            was = {each.name: each for each in made[0].inputs if each.name == "base image"}
            inputs = tuple(was.get(each.name, each) for each in inputs)
        yield Freshness(build, choose(build, inputs, baked), base is not None)


def show_freshness(plan: Plan) -> None:
    """Say of each build of a plan whether its image is fresh, or why not."""
    for each in _freshness(Path(plan.project), plan.builds):
        for line in each.words():
            say(line)


# --- build why --image ----------------------------------------------------------------------------


def show_why_image(ctx: click.Context, distro: str, *, as_json: bool) -> None:
    """Say whether the images of a distro or target are fresh; of a stale one, what has changed."""
    from build_orchestrator.configuration.findings import did_you_mean

    configuration = configuration_of(ctx)
    builds = [
        build
        for build in _builds(configuration)
        if distro in (build.name, build.target.distro.name)
    ]
    if not builds:
        names = dict.fromkeys((*configuration.distros, *configuration.targets))
        near = did_you_mean(distro, names) if distro not in names else ""
        raise UsageError(
            f"no image is baked for {distro}{near}",
            resolution="See flavours in targets.yaml: each says which distros have it.",
        )
    found = list(_freshness(configuration.project, builds))
    if as_json:
        say(json.dumps([_reason(each) for each in found], indent=2))
        return
    for each in found:
        flavour = each.build.flavour
        assert flavour is not None
        for number, line in enumerate(each.words()):
            say(line if number else line.replace(":", f" ({flavour.name}):", 1))


def _reason(each: Freshness) -> dict[str, Any]:
    flavour, image = each.build.flavour, each.choice.image
    assert flavour is not None
    return {
        "target": each.build.name,
        "flavour": flavour.name,
        "fresh": image is not None,
        "entry": image.entry if image else None,
        "reason": each.choice.reason,
        "changes": list(each.choice.changes),
        "base_known": each.base_known,
    }
