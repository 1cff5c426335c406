"""How agents are called: by the machine they are built in, and by what the user says."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Mapping

from build_orchestrator.agent.errors import Code, PackagerError

if TYPE_CHECKING:
    from build_orchestrator.agent.config import Config

OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
SUFFIX = ".tar.gz"
# Names that capitalising the distribution's own would not give.
DISTRIBUTIONS = {"almalinux": "AlmaLinux", "amzn": "AmazonLinux", "centos": "CentOS"}
DISTRIBUTIONS.update({"ol": "Oracle", "opensuse-leap": "openSUSE"})
DISTRIBUTIONS.update({"rhel": "RedHat", "sles": "SLES"})


def os_release(places: tuple[str, ...] = OS_RELEASE) -> dict[str, str]:
    """The distribution's description of itself, read and never sourced.

    Raises:
        PackagerError: there is none.
    """
    for place in places:
        try:
            lines = Path(place).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        pairs = (line.partition("=") for line in lines)
        return {key: value.strip("\"'") for key, _, value in pairs}
    raise PackagerError(
        Code.COULD_NOT_IDENTIFY_DISTRIBUTION,
        "this machine does not say which distribution it is",
        details=f"looked for {' and '.join(places)}",
        resolution="Give distribution and release in the configuration.",
    )


def distribution_and_release(about: Mapping[str, str], machine: str) -> tuple[str, str]:
    """Such as (Debian, bookworm) or (Rocky, 9); another architecture is part of the release."""
    identity, release = about.get("ID", "linux"), about.get("VERSION_ID", "rolling")
    family = f"{identity} {about.get('ID_LIKE', '')}".split()
    said = re.search(r"\((\w+)\)", about.get("VERSION", ""))
    codename = said.group(1).lower() if said else ""
    if "debian" in family:
        release = about.get("VERSION_CODENAME") or codename or release
    elif "rhel" in family:
        major = release.split(".")[0]  # a minor release comes with an update, not by choice
        # Cloudify Managers know those of up to 7 by their codenames: core, maipo.
        release = codename if codename and major in ("6", "7") else major
    arch = {"x86_64": "", "amd64": "", "aarch64": "-arm64"}.get(machine, f"-{machine}")
    return DISTRIBUTIONS.get(identity, identity.capitalize()), release + arch


def archive_name(config: Config) -> str:
    """``{Distribution}-{release}-agent[_{VERSION}[-{PRERELEASE}][-b{BUILD}]].tar.gz``.

    Raises:
        PackagerError: neither the configuration nor the machine says which distribution it is.
    """
    if config.output_tar:
        return config.output_tar
    distribution, release = config.distribution, config.release
    if not (distribution and release):
        found = distribution_and_release(os_release(), platform.machine())
        distribution, release = distribution or found[0], release or found[1]
    name = f"{distribution}-{release}-agent"
    if config.version:
        version = config.version
        version += f"-{config.milestone}" if config.milestone else ""
        version += f"-b{config.build}" if config.build else ""
        # A Cloudify Manager cuts a name at its last _ to find which machines it is for.
        name += "_" + version.replace("_", "-")
    return safe(name) + SUFFIX


def safe(name: str) -> str:
    """A file name of it: whatever a name cannot hold becomes a dash."""
    return re.sub(r"[^\w.+~-]", "-", name)
