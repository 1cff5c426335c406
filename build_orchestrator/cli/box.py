"""``build box``: a Vagrant box, made on this host instead of downloaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from build_orchestrator.cli.project import configuration_of, project_of
from build_orchestrator.cli.streams import say
from build_orchestrator.errors import EnvironmentFailure, UsageError

if TYPE_CHECKING:
    from build_orchestrator.configuration import Configuration
    from build_orchestrator.model import Target

FOLDER = "dist/boxes"
NO_VERSION = "0"
"""As Vagrant has it for a box that was added without one."""


@click.command()
@click.argument("target")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=f"Put the box here  [default: {FOLDER} of the project]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.option("-q", "--quiet", is_flag=True, help="Do not say how far it is")
@click.pass_context
def box(ctx: click.Context, target: str, output: Path | None, as_json: bool, quiet: bool) -> None:
    """Make a Vagrant box for a target, from its distribution's packages.

    That works for libvirt and VirtualBox, and for distros that qemu bootstraps. The box has the
    name and version that the target starts from, so that `vagrant up` takes it and downloads none.
    The first one of a distro takes a minute or two; after that it is in the cache.

    \b
    Examples:
      build box debian_bookworm_libvirt
      vagrant box add dist/boxes/debian_bookworm_libvirt.json
      build box debian_bookworm_virtualbox -o /tmp --json
    """
    from build_orchestrator.deadline import NEVER, Deadline
    from build_orchestrator.doctor import require_image_tools
    from build_orchestrator.image.box import catalogue, make_box
    from build_orchestrator.render.vagrantfile import box_name

    configuration = configuration_of(ctx)
    found = _target(configuration, target)
    suite = _suite(configuration, found)
    require_image_tools()
    made = make_box(
        suite,
        found.provider,
        deadline=Deadline("image", found.deadlines.image_s, "the box"),
        cancel=NEVER,
        on_line=(lambda _: None) if quiet else (lambda line: say(line, err=True)),
    )
    name, version = box_name(found.image), found.image.version or NO_VERSION
    folder = output or project_of(ctx) / FOLDER
    path, index = folder / f"{found.name}.box", folder / f"{found.name}.json"
    _put(made.path, path)
    index.write_text(catalogue(made, path, name, version))
    if as_json:
        row = {
            "target": found.name,
            "provider": found.provider,
            "suite": suite,
            "name": name,
            "version": version,
            "path": str(path),
            "catalogue": str(index),
            "sha256": made.sha256,
            "size_bytes": made.size_bytes,
        }
        click.echo(json.dumps(row, indent=2))
        return
    say(f"{path} ({made.size_bytes >> 20} MiB)")
    say(f"  is {name} {version} for {found.provider}, from the packages of {suite}. Next:")
    say(f"  vagrant box add {index}")


def _target(configuration: Configuration, name: str) -> Target:
    from build_orchestrator.configuration.findings import did_you_mean
    from build_orchestrator.image.box import PROVIDERS

    boxed = {
        each.name: each for each in configuration.targets.values() if each.provider in PROVIDERS
    }
    if name in boxed:
        return boxed[name]
    if name in configuration.targets:
        raise UsageError(
            f"{name}: boxes are made for {' and '.join(PROVIDERS)}, not for its provider"
        )
    raise UsageError(
        f"there is no target {name}{did_you_mean(name, boxed)}",
        resolution="`build list` shows every target.",
    )


def _suite(configuration: Configuration, target: Target) -> str:
    """The suite that this target, or another one of its distro, is bootstrapped from."""
    suites = {
        each.distro.name: each.image.bootstrap
        for each in configuration.targets.values()
        if each.image.bootstrap
    }
    suite = target.image.bootstrap or suites.get(target.distro.name, "")
    if not suite:
        raise UsageError(
            f"{target.name}: no box can be made, since {target.distro.name} is not bootstrapped",
            details=f"Distros that are: {', '.join(suites) or 'none'}",
            resolution="Use the public box that it starts from: `vagrant up` downloads it.",
        )
    return suite


def _put(source: Path, place: Path) -> None:
    """Copy a box to where it is wanted, whole or not at all."""
    scratch = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, scratch)
        scratch.replace(place)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise EnvironmentFailure(f"{place}: {error.strerror}") from error
