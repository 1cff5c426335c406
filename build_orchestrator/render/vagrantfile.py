"""Targets -> a Vagrantfile: the committed one of all targets, or that of one machine.      (pure)

Both come from one template, ``vagrant/Vagrantfile.j2``. Whatever the template prints is written as
Ruby, quoted, so that no value of targets.yaml can become code.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from build_orchestrator.errors import UsageError
from build_orchestrator.model import Distro, ImageSource, Recipe, Size, Target, through_vagrant

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "vagrant/Vagrantfile.j2"
COMMITTED = "vagrant/Vagrantfile"
"""Both relative to the project."""

MADE_HERE = "build-orchestrator"
"""Boxes from bootstrapped images are called ``build-orchestrator/<suite>``."""

SSH_FACTS = "ssh.json"
"""Where one machine's Vagrantfile writes how it is reached, beside itself."""
SETUP = "setup.bat"
"""What a Windows machine's Vagrantfile runs in it, beside itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One machine, as the template needs it."""

    name: str
    """Vagrant's own name of it: the target's, in the committed file."""
    target: str
    provider: str
    box: str
    version: str = ""
    """One version, or nothing where the box has none."""
    url: str = ""
    """Of the file that the box is in; a path is relative to the project."""
    sha256: str = ""
    windows: bool = False
    communicator: str = "ssh"
    ssh_args: tuple[str, ...] = ()
    size: Size
    boot_s: int
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The script's variables; empty where Vagrant runs no script."""
    script: str = ""
    """Relative to the inputs; empty likewise."""
    folder: str = ""
    """The machine's own, with which the provider describes it."""
    driver: str = ""
    """Of libvirt: ``kvm`` or ``qemu``; empty lets the file look at the host."""
    ssh_port: int = 0
    """The port of this host that leads to the machine's ssh; 0 leaves it to Vagrant."""
    ami: str = ""
    """Of aws: the image's id, where it is known before AWS is asked."""
    launch: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of aws: how it is launched."""

    @property
    def disk_gib(self) -> int:
        """libvirt counts in whole GiB."""
        return -(-self.size.disk_mib // 1024)


def box_name(source: ImageSource) -> str:
    """What the box of an image is called."""
    return f"{MADE_HERE}/{source.bootstrap}" if source.bootstrap else source.box


def ssh_args(distro: Distro) -> tuple[str, ...]:
    """Old algorithms of an old distro, as arguments of ssh."""
    return tuple(word for option in distro.ssh_options for word in ("-o", option))


def committed(template: str, targets: Iterable[Target], recipe: Recipe, epoch: int) -> str:
    """``vagrant/Vagrantfile``: every target that Vagrant supplies, in the order given; with those
    of aws, which say so where its plugin is missing.

    Args:
        epoch: the SOURCE_DATE_EPOCH that scripts see.
    """
    described = tuple(
        _described(each, recipe, epoch)
        for each in targets
        if through_vagrant(each.provider) or each.provider == "aws"
    )
    return _rendered(template, described, recipe)


def single(template: str, machine: Described) -> str:
    """The Vagrantfile of one build's machine, which runs nothing in it."""
    return _rendered(template, (machine,), None)


def _inputs(recipe: Recipe) -> list[str]:
    """What the script needs in its machine; what lies in another input comes with it."""
    names = dict.fromkeys((*recipe.inputs, recipe.script, recipe.windows_script))
    folders = [f"{name.rstrip('/')}/" for name in names if name]
    return [
        name
        for name in names
        if name and not any(name.startswith(folder) and name != folder for folder in folders)
    ]


def _described(target: Target, recipe: Recipe, epoch: int) -> Described:
    distro, image = target.distro, target.image
    return Described(
        name=target.name,
        target=target.name,
        provider=target.provider,
        box="dummy" if target.provider == "aws" else box_name(image),
        version=image.version,
        url=image.url or image.path,
        sha256=image.sha256,
        windows=distro.windows,
        communicator=target.communicator,
        ssh_args=ssh_args(distro),
        size=target.size,
        boot_s=int(target.deadlines.boot_s),
        ami=image.ami,
        launch=_launch(target) if target.provider == "aws" else {},
        environment={
            **recipe.environment,
            "BUILD_TARGET": target.name,
            "BUILD_DISTRO": distro.name,
            "SOURCE_DATE_EPOCH": str(epoch),
            "LANG": "C.UTF-8",
        },
        script=str(PureWindowsPath(recipe.windows_script)) if distro.windows else recipe.script,
    )


def _launch(target: Target) -> dict[str, str]:
    """The options of aws that the plugin has, too, each with its first word: it tries no other."""
    first = {name: value.split()[0] for name, value in target.options.items() if value}
    return {"user": target.distro.ssh_user, "instance_types": "t3.medium", **first}


def _rendered(template: str, machines: tuple[Described, ...], recipe: Recipe | None) -> str:
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(
            machines=machines,
            recipe=recipe,
            inputs=_inputs(recipe) if recipe else [],
            facts=SSH_FACTS,
            setup=SETUP,
        )
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise UsageError(
            f"{TEMPLATE}{f':{line}' if line else ''}: {error}",
            resolution="Correct the project's own template, or remove it to use the shipped one.",
        ) from error


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    """Compiling takes far longer than rendering, and each build of a run is rendered."""
    from jinja2 import Environment, StrictUndefined

    def finalize(value: Any) -> str:
        # What is undefined says so, with its name, when it becomes text.
        return ruby(str(value) if isinstance(value, StrictUndefined) else value)

    environment = Environment(
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # This is Ruby: finalize quotes everything.
    )
    return environment.from_string(template)


def ruby(value: Any) -> str:
    """A value as Ruby source. Text stands in single quotes, where Ruby interpolates nothing.

    Raises:
        TypeError: for what has no meaning in Ruby.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{ruby(key)} => {ruby(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(ruby(each) for each in value) + "]"
    raise TypeError(f"{value!r} cannot be written as Ruby")
