"""The nouns of the product: frozen values, units in their names, no behaviour that has effects.

All of it is built from plain values and other nouns: ``decode(encode(plan)) == plan``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from build_orchestrator.costs import Estimate, Used

RECIPE_VERSION = 1
"""Raised when the way we drive a build changes what comes out of it. Part of every build's key."""


class Stage(enum.StrEnum):
    """The stages of one build, in order."""

    QUEUE = "queue"
    IMAGE = "image"
    BOOT = "boot"
    TRANSFER = "transfer"
    PROVISION = "provision"
    COLLECT = "collect"
    DESTROY = "destroy"
    PUBLISH = "publish"


class Outcome(enum.StrEnum):
    """What became of a build."""

    BUILT = "built"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    ENVIRONMENT = "environment"
    CANCELLED = "cancelled"


class MachineFate(enum.StrEnum):
    """What became of the build's machine."""

    NONE = "none"
    DESTROYED = "destroyed"
    KEPT = "kept"
    LEAKED = "leaked"


class Published(enum.StrEnum):
    """What became of one destination."""

    YES = "yes"
    NO = "no"
    CONFLICT = "conflict"


class Keep(enum.StrEnum):
    """When a machine is kept alive on purpose after its build."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


OWN_PROVIDERS = frozenset({"aws", "fake", "packer", "qemu"})
"""Providers that we drive ourselves; every other name means a provider of Vagrant's."""


def through_vagrant(provider: str) -> bool:
    """Whether Vagrant supplies the machines of this provider."""
    return provider not in OWN_PROVIDERS


# --- what the user declared -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """What a machine starts from, as declared.

    A disk: one of bootstrap, url, path. A box: bootstrap, or box with its version, url or path.
    """

    bootstrap: str = ""
    """A suite that is built from the distribution's packages on this host, such as ``bookworm``."""
    url: str = ""
    path: str = ""
    """A qcow2 disk; relative to the project."""
    sha256: str = ""
    """Required with url and path."""
    kernel: str = ""
    """URL or path of a kernel to start directly; without it the disk boots itself."""
    kernel_sha256: str = ""
    initrd: str = ""
    initrd_sha256: str = ""
    box: str = ""
    """The name of a Vagrant box, such as ``bento/debian-12``."""
    version: str = ""
    """Of the box: one version, never a range."""
    ami: str = ""
    """The id of an image of AWS; beside a name or parameter: what that is locked to."""
    ami_name: str = ""
    """A pattern over the names of ``ami_owner``'s images; the newest is meant."""
    ami_owner: str = ""
    ami_parameter: str = ""
    """A parameter of AWS Systems Manager that holds an image's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distro:
    """An operating system release."""

    name: str
    """Such as ``debian_bookworm``; another architecture than x86_64 is part of it."""
    distribution: str
    """As artifact names have it, such as ``Debian``."""
    release: str
    """As artifact names have it, such as ``bookworm``."""
    arch: str = "x86_64"
    windows: bool = False
    legacy: bool = False
    ssh_user: str = "root"
    ssh_options: tuple[str, ...] = ()
    """``Key=value`` lines for the build's own ssh configuration (old algorithms of old distros)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a machine is."""

    cpus: int = 2
    memory_mib: int = 1024
    disk_mib: int = 8192
    """0 (Vagrant's machines only): as large as the box has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """The limit of each stage, in seconds."""

    image_s: float = 1800.0
    boot_s: float = 300.0
    transfer_s: float = 300.0
    provision_s: float = 3600.0
    collect_s: float = 600.0
    destroy_s: float = 60.0
    publish_s: float = 600.0

    @property
    def limit_s(self) -> float:
        """The longest that a machine may live: all stages inside it, plus a margin of a tenth."""
        inside = self.boot_s + self.transfer_s + self.provision_s + self.collect_s + self.destroy_s
        return inside * 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """distro x provider, named ``<distro>_<provider>``."""

    name: str
    distro: Distro
    provider: str
    image: ImageSource
    size: Size
    deadlines: Deadlines
    attempts: int = 2
    """How many machines may be tried when the environment fails."""
    communicator: str = "ssh"
    """``ssh``, or ``winrm``: how Vagrant talks to it, or on aws we do."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What only this provider understands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A file that the script must leave in ``$BUILD_OUTPUT``."""

    name: str
    """File name. A recipe's may hold ``{distribution} {release} {version} {target} {distro}``."""
    members: str = ""
    """For a ``.tar.gz``: the folder that every member must lie under, such as ``cloudify/env/``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """What a baked image holds beyond its base image."""

    name: str
    script: str
    packages: tuple[str, ...] = ()
    distros: tuple[str, ...] = ()
    max_age_s: float = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is built."""

    name: str
    script: str  # a path inside the project, as windows_script is
    windows_script: str = ""
    """The script of Windows targets; in their builds it is ``script``."""
    inputs: tuple[str, ...]
    """Files and folders of the project that the script sees in ``$BUILD_INPUTS``."""
    outputs: tuple[Output, ...]
    windows_outputs: tuple[Output, ...] = ()
    destinations: tuple[str, ...]
    """``dist/``-like folders or ``s3://bucket/prefix``."""
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Names of host variables that reach the script, and nothing else."""
    requirements_lock: str = ""
    """Path of a committed lock of what the script installs; without it no key can match."""
    max_artifact_age_s: float = 30 * 24 * 3600.0
    flavour: str = ""
    pass_host_trust: bool = False
    """Hand the host's CA bundle, proxies and package index settings to the script."""


# --- the plan ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """VERSION, PRERELEASE and BUILD: they name artifacts and nothing else."""

    version: str = ""
    prerelease: str = ""
    build: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One thing that decides whether a build is up to date."""

    name: str
    """Such as ``script provision/provision.sh`` or ``recipe version``."""
    value: str
    """A digest (``sha256:...``) or the value itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a machine starts from, resolved."""

    source: str
    """Such as ``bootstrap bookworm`` or a URL."""
    sha256: str
    """Of the disk."""
    disk: str
    """Path on this host, the provider's own id, or the name of a Vagrant box."""
    kernel: str = ""
    initrd: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One target within one run: everything needed to do it, decided before anything boots."""

    target: Target
    recipe: Recipe
    naming: Naming
    outputs: tuple[Output, ...]
    """The recipe's outputs with their names resolved."""
    environment: Mapping[str, str]
    """The script's variables, without secrets and without host trust."""
    host_trust: Mapping[str, str] = field(default_factory=dict)
    """What pass_host_trust hands over; credentials in an address are not here, but secrets."""
    flavour: Flavour | None = None
    image: Image | None = None
    """None in a plan that is only printed; resolved by ``up`` before anything boots."""
    inputs: tuple[Input, ...] = ()
    key: str = ""
    """64 hex digits over the inputs; both are resolved with the image."""
    folder: str = ""
    """Where below a destination: ``<VERSION>/<PRERELEASE>-build``, or ``dev/<12 of the key>``."""
    hourly_usd: Mapping[str, float] = field(default_factory=dict)
    """What its machine costs, by type of machine, where it is paid for and that is known."""

    @property
    def name(self) -> str:
        """A build is called as its target is."""
        return self.target.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The frozen list of builds of one run."""

    schema: int = 1
    run_id: str
    """For people and folders: ``20261121T014500Z-3f9c``."""
    run_uuid: str
    """For programs: 32 hex digits."""
    project: str
    """Absolute path of the project root."""
    created_at: str
    """UTC, ISO 8601."""
    jobs: int
    builds: tuple[Build, ...]
    estimate: Estimate | None = None
    """None where no machine is paid for."""


# --- what exists and what happened -------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Enough to find one machine again and destroy it, from any process."""

    provider: str
    name: str
    """``bo-<run uuid>-<target>-<attempt>``: carried by everything that the provider shows."""
    run_uuid: str
    target: str
    attempt: int
    folder: str = ""
    """Where the machine's disk and keys are on this host; empty where there is none."""
    details: Mapping[str, str] = field(default_factory=dict)
    """The provider's own ids (pid, port, instance id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A verified output on this host."""

    name: str
    path: str
    size_bytes: int
    sha256: str
    md5: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedArtifact:
    """One artifact at one destination."""

    destination: str
    name: str
    url: str
    """Path or address where it is, or would have been."""
    state: Published
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a build did not end well, in the words of the report."""

    stage: str
    brief: str
    details: str = ""
    resolution: str = ""
    rule: str = ""
    """Which evidence decided between the build and its environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of the report."""

    target: str
    outcome: Outcome
    machine: MachineFate
    kept_until: str = ""
    """UTC, ISO 8601; set when the machine is kept."""
    published: tuple[PublishedArtifact, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    attempts: int = 0
    stages_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by stage."""
    phases_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by the script's own ``::phase`` lines."""
    image: str = ""
    start: str = ""
    """``cold`` or ``warm``."""
    host_key: str = ""
    """How the machine's host key was first known: image, console or first-use."""
    key: str = ""
    log: str = ""
    machine_name: str = ""
    used: tuple[Used, ...] = ()
    """Every machine that was paid for, of all attempts."""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run did: the content of ``report.json``."""

    schema: int = 1
    run_id: str
    run_uuid: str
    started_at: str
    seconds: float
    exit_code: int
    results: tuple[Result, ...]
