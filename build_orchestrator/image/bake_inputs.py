"""What decides whether a baked image is fresh: its key, and the list behind it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from build_orchestrator.configuration.files import text_of
from build_orchestrator.machine.qemu.launch import KERNEL_ARGUMENTS
from build_orchestrator.model import Build, Flavour, Image, Input, Target
from build_orchestrator.render.packerfile import (
    BUILDERS,
    INSIDE,
    TEMPLATE,
    packerfile,
    part_of,
)

RECIPE = "1"
"""Raised when a change of ours changes what a baked image is. Part of every image's key."""

UNKNOWN = "unknown"
"""The base image's value where it is not on this host."""


def bake_inputs(build: Build, project: Path, base: Image | None) -> tuple[Input, ...]:
    """Everything declared that can change what a baked image is.

    Args:
        base: what it is made of; None where this host does not have it.

    Raises:
        UsageError: a file is missing, or the template is broken.
    """
    target, flavour = build.target, build.flavour
    assert flavour is not None
    part = part_of(rendered(project, [target], [flavour]))
    pairs = [
        ("bake version", RECIPE),
        ("base image", _made_of(base) if base else UNKNOWN),
        # Its text alone: Packer is given that, and inside.sh runs it by sh.
        (f"script {flavour.script}", _digest(text_of(project, flavour.script))),
        ("packages", " ".join(flavour.packages)),
        ("distro", _canonical(dataclasses.asdict(target.distro))),
        (f"script {INSIDE}", _digest(text_of(project, INSIDE))),
        (f"template {TEMPLATE}", _digest(part)),
    ]
    if BUILDERS[target.provider] == "qemu" and target.size.disk_mib:
        pairs.append(("disk", f"{target.size.disk_mib} MiB"))  # Others have their base image's.
    source = target.image
    if kernel := " ".join(filter(None, (source.kernel_sha256, source.initrd_sha256))):
        pairs.append(("kernel", kernel))  # It is no part of the disk, and comes with the image.
    return tuple(Input(name=name, value=value) for name, value in pairs)


def rendered(project: Path, targets: Sequence[Target], flavours: Sequence[Flavour]) -> str:
    """The packerfile.json of these targets of one distro.

    Raises:
        UsageError: the template is broken, or cannot be read.
    """
    template = text_of(project, TEMPLATE)
    return packerfile(template, targets, flavours, kernel_arguments=KERNEL_ARGUMENTS)


def _made_of(base: Image) -> str:
    if base.sha256:
        return f"sha256:{base.sha256}"
    # The name of an image of AWS says nothing: its id never means another one.
    return base.disk if base.disk.startswith("ami-") else base.source


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
