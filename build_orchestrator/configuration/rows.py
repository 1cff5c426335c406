"""The shape of targets.yaml, declared once: reading, the JSON schema and the docs follow it.

Every field carries a Rule: what it is for, and what may stand there. A row with nothing in it is
what the file may leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from build_orchestrator.configuration.launch import BudgetRow as BudgetRow
from build_orchestrator.configuration.launch import LaunchRow as LaunchRow
from build_orchestrator.configuration.shapes import Declared as Declared
from build_orchestrator.configuration.shapes import Rule as Rule
from build_orchestrator.configuration.shapes import Shape as Shape
from build_orchestrator.configuration.shapes import declared as declared
from build_orchestrator.configuration.shapes import entry as entry

SCHEMA = 1
"""The version of this shape."""

NAME = "[a-z0-9]+(_[a-z0-9]+)*"
RECIPE_NAME = "[a-z0-9]+([_-][a-z0-9]+)*"
VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
SHA256 = "[0-9a-fA-F]{64}"
BOX = "[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?"
VERSION = "[0-9]+(\\.[0-9A-Za-z]+)*([-+][0-9A-Za-z.-]+)?"
AGE = "[1-9][0-9]{0,3}[hd]"
AGE_WANTED = "a number with h or d, such as 30d"
LABEL = "[A-Za-z0-9][A-Za-z0-9 ._+-]*"
ARCHITECTURES = ("x86_64", "arm64", "i386")
COMMUNICATORS = ("ssh", "winrm")
USER = "[A-Za-z_][A-Za-z0-9_-]*"
WEEK_S = 7 * 24 * 3600


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
        "Who logs in.",
        default="",
        pattern=USER,
        wanted="a user name",
        without="`root`; `Administrator` on Windows",
    )
    options: tuple[str, ...] = entry(
        "Old algorithms for this distro only, as `Key=value`; needs `legacy: true`.", default=()
    )


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """What a machine starts from: bootstrap, url, path, a Vagrant box, or an image of AWS."""

    bootstrap: str = entry(
        "A suite that is built from the distribution's packages on this host.",
        default="",
        pattern=LABEL,
        wanted="the name of a suite such as bookworm",
    )
    url: str = entry(
        "A disk to download, or the file that the box is in.",
        default="",
        pattern="https?://[^ ]+",
        wanted="an address that begins with https:// or http://",
    )
    path: str = entry(
        "A qcow2 disk, or the file that the box is in; relative to the project.", default=""
    )
    sha256: str = entry(
        "Of that file; required with url and path.",
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
    box: str = entry(
        "A Vagrant box by its name, for `virtualbox`, `libvirt` and the like.",
        default="",
        pattern=BOX,
        wanted="the name of a box such as bento/debian-12",
    )
    version: str = entry(
        "Of the box; required, unless `url` or `path` says in which file the box is.",
        default="",
        pattern=VERSION,
        wanted="one version such as 202502.21.0; a range would not stay what it is",
    )
    ami: str = entry(
        "An image of AWS, for `aws` only, by its id.",
        default="",
        pattern="ami-[0-9a-f]{8,17}",
        wanted="an id such as ami-0123456789abcdef0",
    )
    ami_name: str = entry(
        "The newest image of `ami_owner` whose name matches, such as `debian-12-amd64-*`.",
        default="",
        pattern="[ -~]{3,128}",
        wanted="a name, in which * and ? stand for others",
    )
    ami_owner: str = entry(
        "Who made it: an account's number, `amazon`, `aws-marketplace` or `self`.",
        default="",
        pattern="[0-9]{12}|amazon|aws-marketplace|self",
        wanted="12 digits, amazon, aws-marketplace or self",
    )
    ami_parameter: str = entry(
        "A parameter of AWS Systems Manager that holds the id.",
        default="",
        pattern="/[A-Za-z0-9._/-]+",
        wanted="a path such as /aws/service/debian/release/12/latest/amd64",
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
    communicator: str = entry(
        "How Vagrant talks to its machines; on `aws`, how we do: `winrm` is for Windows without "
        "OpenSSH.",
        default="",
        choices=COMMUNICATORS,
        without="`winrm` where Vagrant starts Windows, else `ssh`",
    )
    launch: LaunchRow | None = entry("How machines of `aws` are launched.", default=None)
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
        "Too old for current ssh and TLS: best effort, and only here may `ssh.options` relax them. "
        "On aws, the key that logs in is RSA.",
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
class FlavourRow:
    """What `build bake` puts into an image, so that no build has to."""

    script: str = entry("The script that installs it; inside the project.", filled=True)
    packages: tuple[str, ...] = entry(
        "Packages of the distribution; the script finds them in `$BAKE_PACKAGES`.",
        default=(),
        pattern="[A-Za-z0-9][A-Za-z0-9.+_-]*",
        wanted="a package's name",
    )
    distros: tuple[str, ...] = entry(
        "The distros that have it.", default=(), without="all but Windows"
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
    windows_script: str = entry(
        "The script of Windows targets, run by `cmd`; inside the project.",
        default="",
        pattern="[A-Za-z0-9 ._/-]+",
        wanted="a path of letters, digits, spaces and . _ - / : cmd gives other signs a meaning",
        without="no Windows target has this recipe",
    )
    inputs: tuple[str, ...] = entry(
        "Files and folders of the project that the script sees in `$BUILD_INPUTS`.", default=()
    )
    outputs: tuple[OutputRow, ...] = entry("What the script must leave.", filled=True)
    windows_outputs: tuple[OutputRow, ...] = entry(
        "What `windows_script` must leave.", default=(), without="the same as `outputs`"
    )
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
    flavour: str = entry(
        "Which baked image its machines start from, where `build bake` has made one.",
        default="",
        without="always the base image",
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
    launch: LaunchRow | None = entry("How machines of `aws` are launched.", default=None)
    max_image_age: str = entry(
        "How old a baked image may become, in hours or days.",
        default="30d",
        pattern=AGE,
        wanted=AGE_WANTED,
    )
    max_artifact_age: str = entry(
        "The longest that an artifact counts as up to date, in hours or days: each period of this "
        "length, counted from 1970, builds anew, since a distribution's packages change.",
        default="30d",
        pattern=AGE,
        wanted=AGE_WANTED,
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
        without="virtualbox where it and Vagrant are installed and a target has it, else qemu",
    )
    defaults: DefaultsRow | None = entry("What holds where a row says nothing.", default=None)
    budget: BudgetRow | None = entry("What machines of `aws` may cost.", default=None)
    vagrant_providers: tuple[str, ...] = entry(
        "Providers beside `virtualbox` and `libvirt` that Vagrant has on your hosts.",
        default=(),
        pattern=NAME,
        wanted="a provider's name such as vmware_desktop",
    )
    distros: Mapping[str, DistroRow] = entry(
        "The distros by name.",
        names=NAME,
        names_wanted="lower-case letters and digits joined by single _",
        filled=True,
    )
    flavours: Mapping[str, FlavourRow] = entry(
        "What baked images hold, by name.",
        default={},
        names=RECIPE_NAME,
        names_wanted="lower-case letters and digits joined by single _ or -",
    )
    recipes: Mapping[str, RecipeRow] = entry(
        "The recipes by name.",
        names=RECIPE_NAME,
        names_wanted="lower-case letters and digits joined by single _ or -",
        filled=True,
    )
