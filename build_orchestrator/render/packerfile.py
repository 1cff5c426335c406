"""A distro -> packerfile.json, with which Packer bakes its images.                         (pure)

The committed file and the one that `build bake` runs are the same text: what depends on the host or
on the day arrives as Packer's own variables. Whatever the template prints is JSON, quoted, and in
what comes from targets.yaml Packer finds no words of its own: the values of builders and
provisioners are quoted for it, too. Those of variables cannot be, since Packer reads them twice and
hands on what they were in between: `configuration` takes none with its braces.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from build_orchestrator.errors import UsageError
from build_orchestrator.model import Flavour, ImageSource, Target

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = "packer/packerfile.json.j2"
INSIDE = "packer/inside.sh"
PLUGINS = "packer/plugins.pkr.hcl"

BUILDERS = {
    "qemu": "qemu",
    "libvirt": "qemu",
    "virtualbox": "virtualbox-ovf",
    "aws": "amazon-ebs",
}
"""Provider -> the kind of Packer's builder that makes its images."""

BOXED = frozenset({"libvirt", "virtualbox"})
"""Providers whose images are Vagrant boxes."""

TRUST = (
    *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    *("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"),
)
"""Variables of the host that may hold credentials: they reach Packer as environment alone."""

MAKING = frozenset(
    {
        *("output", "name", "image_name", "run_uuid", "target", "expires_at", "limit_s"),
        *("cpus", "memory_mib", "disk_mib", "accelerator", "serial", "seed", "boot_s"),
        *("base_disk", "base_checksum", "base_ovf", "kernel", "initrd", "source_ami"),
        *("region", "aws_endpoint", "instance_type", "subnet_id", "security_group_id"),
        *("ssh_private_key_file", "ssh_keypair_name", "ssh_interface", "ssh_port", "allow_from"),
        *("ca_bundle", *TRUST),
    }
)
"""Variables of Packer's that say where, when and of what an image is made. None is a part of its
key: what of it changes an image (the base image, the disk's size) stands there by itself."""

USER = re.compile(r'user (?:`|\\")([\w.-]+)')
"""How JSON refers to a variable of Packer's."""

BESIDE = frozenset({"checksum", "manifest"})
"""Post-processors that leave an image as it is, and write something beside it."""

INSTANCE_TYPE = "t3.medium"
REGION = "us-east-1"
"""Where the row names none: for people who have only Packer."""


class Words(str):
    """Text in which Packer shall find its own words."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """One of Packer's builders, as the template needs it."""

    name: str
    """``<provider>-<flavour>``."""
    kind: str
    provider: str
    title: str
    user: str
    image: ImageSource

    @property
    def seeded(self) -> bool:
        """Whether the machine takes its identity from a seed disk, as with the provider qemu."""
        return self.provider == "qemu"

    @property
    def kernel(self) -> bool:
        """Whether QEMU starts the kernel, without a loader."""
        return self.seeded and bool(self.image.bootstrap or self.image.kernel)


def path_of(distro: str) -> str:
    """Where a distro's file lies in the project."""
    return f"packer/{distro}/packerfile.json"


def builder_name(provider: str, flavour: str) -> str:
    """What Packer calls the builder, for ``-only``."""
    return f"{provider}-{flavour}"


def can_be_baked(target: Target) -> bool:
    """Whether Packer can make an image for this target."""
    return target.provider in BUILDERS and not target.distro.windows


def packerfile(
    template: str,
    targets: Sequence[Target],
    flavours: Sequence[Flavour],
    *,
    kernel_arguments: str,
) -> str:
    """The file of one distro, whose targets and flavours these are; there is one of each at least.

    Args:
        kernel_arguments: what a directly started kernel is told.

    Raises:
        UsageError: the template is broken, or what it makes is no JSON.
    """
    from jinja2 import TemplateError

    builders = [_builder(target, each) for target in targets for each in flavours]
    first = targets[0]
    try:
        text = _compiled(template).render(
            builders=builders,
            boxed=[each.name for each in builders if each.provider in BOXED],
            disks=[each.name for each in builders if each.provider == "qemu"],
            flavours=[
                {
                    "script": each.script,
                    "packages": each.packages,
                    "builders": [builder_name(target.provider, each.name) for target in targets],
                }
                for each in flavours
            ],
            size=first.size,
            boot_s=int(first.deadlines.boot_s),
            base=_base(targets),
            place=_place(targets),
            kernel_arguments=kernel_arguments,
            trust=TRUST,
            packer=_words,
        )
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise _broken(f"{TEMPLATE}{f':{line}' if line else ''}: {error}") from error
    return _parsed(text)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    """Compiling takes far longer than rendering, and each image of each target is rendered."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        undefined=StrictUndefined,
        finalize=quoted,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # This is JSON: finalize quotes everything.
    )
    return environment.from_string(template)


def part_of(text: str) -> str:
    """What of a file of one builder decides what its image is, in one way of writing it: a part of
    the image's key.

    Of Packer's variables it has those that the rest refers to, unless they are among MAKING.
    """
    content: Mapping[str, Any] = json.loads(text)
    builder = content["builders"][0]["name"]
    kept: dict[str, Any] = {
        "builders": content["builders"],
        "provisioners": _steps(content.get("provisioners", ()), builder),
        "post-processors": [
            each
            for each in _steps(content.get("post-processors", ()), builder)
            if each.get("type") not in BESIDE
        ],
    }
    kept["variables"] = _used(content.get("variables", {}), in_=json.dumps(kept))
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def _steps(rows: Sequence[Any], builder: str) -> list[Mapping[str, Any]]:
    """The provisioners or post-processors that a builder has: a name alone is a step, and so is
    each of a row of them."""
    flat = [each for row in rows for each in (row if isinstance(row, list) else [row])]
    steps = [{"type": each} if isinstance(each, str) else each for each in flat]
    return [
        each
        for each in steps
        if builder in each.get("only", [builder]) and builder not in each.get("except", ())
    ]


def _used(variables: Mapping[str, Any], *, in_: str) -> Mapping[str, Any]:
    """The variables that JSON refers to, by themselves or through others, without MAKING."""
    found: dict[str, Any] = {}
    while new := {each for each in USER.findall(in_) if each in variables} - {*found, *MAKING}:
        found |= {name: variables[name] for name in new}
        in_ = json.dumps([variables[name] for name in new])
    return found


def quoted(value: Any) -> str:
    """A value as JSON. In text that is not ours to give a meaning, Packer's braces are quoted.

    Raises:
        TypeError: for what has no meaning in JSON.
    """
    return json.dumps(_escaped(value))


def _escaped(value: Any) -> Any:
    if isinstance(value, Words):
        return str(value)
    if isinstance(value, str):
        return value.replace("{{", "{{`{{`}}")
    if isinstance(value, tuple | list):
        return [_escaped(each) for each in value]
    return value


def _words(kind: str, name: str) -> Words:
    """Words of Packer's: a variable of the host, one handed to a script, a file of the project."""
    if kind == "env":
        return Words(f"{{{{env `{name}`}}}}")
    if kind == "trust":
        return Words(f"{name}={{{{user `{name}`}}}}")
    return Words(f"{{{{template_dir}}}}/../../{_escaped(name)}")


def _builder(target: Target, flavour: Flavour) -> Builder:
    own = {"qemu": "root", "aws": target.options.get("user", "")}
    made_here = "root" if target.provider == "libvirt" and target.image.bootstrap else "vagrant"
    return Builder(
        name=builder_name(target.provider, flavour.name),
        kind=BUILDERS[target.provider],
        provider=target.provider,
        title=f"{target.name} {flavour.name}",
        user=own.get(target.provider, made_here) or target.distro.ssh_user,
        image=target.image,
    )


def _base(targets: Sequence[Target]) -> Mapping[str, str]:
    """Where to start from, for people who have only Packer: as far as the rows say."""
    disk = next((each.image for each in targets if each.provider == "qemu"), ImageSource())
    cloud = next((each.image for each in targets if each.provider == "aws"), ImageSource())
    return {
        "disk": disk.url or disk.path or "disk.qcow2",
        "checksum": f"sha256:{disk.sha256}" if disk.sha256 else "none",
        # Packer takes no file that names none; of a parameter it can be told what it means.
        "ami": cloud.ami or cloud.ami_parameter,
    }


def _place(targets: Sequence[Target]) -> Mapping[str, str]:
    """Where in AWS, and how it is reached there: nothing of it changes what an image is."""
    options = next((each.options for each in targets if each.provider == "aws"), {})
    return {
        "region": options.get("region", REGION),
        "instance_type": options.get("instance_types", INSTANCE_TYPE).split()[0],
        "subnet_id": options.get("subnet_id", ""),
        "security_group_id": options.get("security_group_id", ""),
        "ssh_interface": f"{options.get('address', 'public')}_ip",
        "ssh_port": options.get("port", "22"),
    }


def _parsed(text: str) -> str:
    """The text, once it is seen to be JSON."""
    try:
        json.loads(text)
    except ValueError as error:
        raise _broken(f"{TEMPLATE} makes no JSON: {error}") from error
    return text


def _broken(brief: str) -> UsageError:
    return UsageError(
        brief,
        resolution="Correct the project's own template, or remove it to use the shipped one.",
    )
