"""The shape of targets.yaml, declared once: reading, the JSON schema and the docs follow it.

Every field carries a Rule: what it is for, and what may stand there. A row with nothing in it is
what the file may leave out.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 1
"""The version of this shape."""

NAME = "[a-z0-9]+(_[a-z0-9]+)*"
RECIPE_NAME = "[a-z0-9]+([_-][a-z0-9]+)*"
VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
SHA256 = "[0-9a-fA-F]{64}"
LABEL = "[A-Za-z0-9][A-Za-z0-9 ._+-]*"
ARCHITECTURES = ("x86_64", "arm64", "i386")
WEEK_S = 7 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What may stand in a field, in its list's items, or in its mapping's values."""

    about: str
    """One sentence for people."""
    pattern: str = ""
    """A regular expression that the whole text must match."""
    wanted: str = ""
    """The pattern in words."""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    names: str = ""
    """For a mapping: a regular expression that each of its names must match."""
    names_wanted: str = ""
    filled: bool = False
    """An empty list, mapping or text is wrong."""
    without: str = ""
    """For the docs: what holds when the field is left out."""


@dataclass(frozen=True)
class Shape:
    """The type of a field, as reading and the schema need it."""

    kind: str
    """``text``, ``integer``, ``number``, ``switch``, ``list``, ``map`` or ``row``."""
    item: Shape | None = None
    """Of a list's items or a mapping's values."""
    row: type[Any] | None = None


@dataclass(frozen=True)
class Declared:
    """One field of a row."""

    name: str
    shape: Shape
    rule: Rule
    required: bool
    default: Any


def entry(about: str, *, default: Any = dataclasses.MISSING, **rule: Any) -> Any:
    """Declare a field of a row; without a default it is required."""
    metadata = {"rule": Rule(about=about, **rule)}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SizeRow:
    """How large a machine is."""

    cpus: int | None = entry("Processors.", default=None, minimum=1, maximum=256)
    memory_mib: int | None = entry("Memory in MiB.", default=None, minimum=64, maximum=1 << 20)
    disk_mib: int | None = entry("Disk in MiB.", default=None, minimum=512, maximum=1 << 24)


def _limit(about: str) -> Any:
    return entry(f"{about}, in seconds.", default=None, minimum=0.05, maximum=WEEK_S)


@dataclass(frozen=True, kw_only=True)
class DeadlinesRow:
    """The limit of each stage. Provision's is the build's fault, the others the environment's."""

    image_s: float | None = _limit("Making or fetching the image")
    boot_s: float | None = _limit("From power-on until the machine answers")
    transfer_s: float | None = _limit("Copying the inputs in")
    provision_s: float | None = _limit("The recipe's script")
    collect_s: float | None = _limit("Copying the outputs out and verifying them")
    destroy_s: float | None = _limit("Destroying the machine")
    publish_s: float | None = _limit("Publishing to all destinations")


@dataclass(frozen=True, kw_only=True)
class SshRow:
    """How to talk to machines of this distro."""

    user: str = entry(
        "Who logs in.", default="root", pattern="[a-z_][a-z0-9_-]*", wanted="a user name"
    )
    options: tuple[str, ...] = entry(
        "Old algorithms for this distro only, as `Key=value`; needs `legacy: true`.", default=()
    )


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """What a machine starts from: exactly one of bootstrap, url and path."""

    bootstrap: str = entry(
        "A suite that is built from the distribution's packages on this host.",
        default="",
        pattern=LABEL,
        wanted="the name of a suite such as bookworm",
    )
    url: str = entry(
        "A disk to download.",
        default="",
        pattern="https?://[^ ]+",
        wanted="an address that begins with https:// or http://",
    )
    path: str = entry("A qcow2 disk; relative to the project.", default="")
    sha256: str = entry(
        "Of the disk; required with url and path.",
        default="",
        pattern=SHA256,
        wanted="64 hex digits",
    )
    kernel: str = entry(
        "Address or path of a kernel to start directly; without it the disk boots itself.",
        default="",
    )
    kernel_sha256: str = entry("Of the kernel.", default="", pattern=SHA256, wanted="64 hex digits")
    initrd: str = entry("Address or path of the initial RAM disk of that kernel.", default="")
    initrd_sha256: str = entry(
        "Of the initial RAM disk.", default="", pattern=SHA256, wanted="64 hex digits"
    )


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """One distro on one provider. What stands here wins over the distro and the defaults."""

    image: ImageRow | None = entry(
        "What its machines start from.", default=None, without="only `fake` needs none"
    )
    size: SizeRow | None = entry("How large its machines are.", default=None)
    deadlines: DeadlinesRow | None = entry("The limit of each stage.", default=None)
    attempts: int | None = entry(
        "How many machines may be tried when the environment fails.",
        default=None,
        minimum=1,
        maximum=10,
    )
    options: Mapping[str, str] = entry("What only this provider understands.", default={})


@dataclass(frozen=True, kw_only=True)
class DistroRow:
    """An operating system release, and the providers that have it."""

    distribution: str = entry(
        "As artifact names have it, such as `Debian`.",
        pattern=LABEL,
        wanted="letters, digits, space and . _ + -",
    )
    release: str = entry(
        "As artifact names have it. Quote what looks like a number.",
        pattern=LABEL,
        wanted="letters, digits, space and . _ + -",
    )
    arch: str = entry(
        "Another architecture than x86_64 is also the end of the distro's name.",
        default="x86_64",
        choices=ARCHITECTURES,
    )
    windows: bool = entry("Whether it is Windows.", default=False)
    legacy: bool = entry(
        "Too old for current ssh and TLS: best effort, and only here may `ssh.options` relax them.",
        default=False,
    )
    ssh: SshRow | None = entry("How to talk to its machines.", default=None, without="root")
    size: SizeRow | None = entry("How large its machines are.", default=None)
    deadlines: DeadlinesRow | None = entry("The limit of each stage.", default=None)
    providers: Mapping[str, TargetRow] = entry(
        "The providers that have it, by name: each makes a target `<distro>_<provider>`.",
        names=NAME,
        names_wanted="a provider's name",
        filled=True,
    )


@dataclass(frozen=True, kw_only=True)
class OutputRow:
    """A file that the script must leave in `$BUILD_OUTPUT`."""

    name: str = entry(
        "File name; may hold `{distribution} {release} {version} {target} {distro}`.", filled=True
    )
    members: str = entry(
        "For a `.tar.gz`: the folder that every member must lie under.",
        default="",
        pattern="([^/]+/)+",
        wanted="a relative folder that ends in /",
    )


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """What is built."""

    script: str = entry("The script that runs in the machine; inside the project.", filled=True)
    inputs: tuple[str, ...] = entry(
        "Files and folders of the project that the script sees in `$BUILD_INPUTS`.", default=()
    )
    outputs: tuple[OutputRow, ...] = entry("What the script must leave.", filled=True)
    destinations: tuple[str, ...] | None = entry(
        "Where artifacts are published: folders, or `s3://bucket/prefix`.",
        default=None,
        without="`defaults.destinations`",
    )
    environment: Mapping[str, str] = entry(
        "Variables of the script.",
        default={},
        names=VARIABLE,
        names_wanted="a variable's name",
    )
    secrets: tuple[str, ...] = entry(
        "Host variables that reach the script, by name; `NAME=path` is the content of a file, "
        "relative to the project.",
        default=(),
        pattern=f"{VARIABLE}(=.+)?",
        wanted="a variable's name, or NAME=path",
    )
    requirements_lock: str = entry(
        "A committed lock of all that the script installs.",
        default="",
        without="never up to date: always built",
    )
    pass_host_trust: bool = entry(
        "Hand the host's CA bundle, proxies and package index settings to the script.",
        default=False,
    )


@dataclass(frozen=True, kw_only=True)
class DefaultsRow:
    """What holds where a distro, target or recipe does not say otherwise."""

    recipe: str = entry("The recipe that `build up` builds.", default="agent")
    size: SizeRow | None = entry("How large a machine is.", default=None)
    deadlines: DeadlinesRow | None = entry("The limit of each stage.", default=None)
    attempts: int = entry(
        "How many machines may be tried when the environment fails.",
        default=2,
        minimum=1,
        maximum=10,
    )
    destinations: tuple[str, ...] = entry(
        "Where artifacts are published: folders, or `s3://bucket/prefix`.", default=("dist/",)
    )


@dataclass(frozen=True, kw_only=True)
class TargetsFile:
    """The matrix: distros x providers, defaults, recipes."""

    schema: int = entry("Version of this file's shape.", minimum=SCHEMA, maximum=SCHEMA)
    default_provider: str = entry(
        "The provider of selectors that name none.",
        default="",
        without="virtualbox where it is installed, else qemu",
    )
    defaults: DefaultsRow | None = entry("What holds where a row says nothing.", default=None)
    distros: Mapping[str, DistroRow] = entry(
        "The distros by name.",
        names=NAME,
        names_wanted="lower-case letters and digits joined by single _",
        filled=True,
    )
    recipes: Mapping[str, RecipeRow] = entry(
        "The recipes by name.",
        names=RECIPE_NAME,
        names_wanted="lower-case letters and digits joined by single _ or -",
        filled=True,
    )


def declared(row: type[Any]) -> Mapping[str, Declared]:
    """The fields of a row by name, in the order of their declaration."""
    if row not in _DECLARED:
        hints = typing.get_type_hints(row)
        fields = dataclasses.fields(row)
        _DECLARED[row] = {each.name: _declared(each, hints[each.name]) for each in fields}
    return _DECLARED[row]


_DECLARED: dict[type[Any], Mapping[str, Declared]] = {}


def _declared(each: dataclasses.Field[Any], hint: Any) -> Declared:
    has_factory = each.default_factory is not dataclasses.MISSING
    return Declared(
        name=each.name,
        shape=_shape(hint),
        rule=each.metadata["rule"],
        required=each.default is dataclasses.MISSING and not has_factory,
        default={} if has_factory else each.default,
    )


_SCALARS = {
    str: Shape("text"),
    int: Shape("integer"),
    float: Shape("number"),
    bool: Shape("switch"),
}


def _shape(hint: Any) -> Shape:
    if hint in _SCALARS:
        return _SCALARS[hint]
    arguments = typing.get_args(hint)
    if type(None) in arguments:  # Optional: a field that may be left out.
        return _shape(next(each for each in arguments if each is not type(None)))
    if typing.get_origin(hint) is tuple:
        return Shape("list", item=_shape(arguments[0]))
    if typing.get_origin(hint) is Mapping:
        return Shape("map", item=_shape(arguments[1]))
    return Shape("row", row=hint)
