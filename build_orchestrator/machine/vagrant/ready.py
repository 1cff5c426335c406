"""What a host must have for machines of Vagrant's, as ``build doctor`` shows it."""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import OrchestratorError
from build_orchestrator.machine.vagrant.adapter import vagrant_home
from build_orchestrator.model import Target

KVM = Path("/dev/kvm")
TOOLS = {"libvirt": "virsh", "virtualbox": "VBoxManage"}
"""The providers whose own tool we know."""

COMMANDS = {
    "vagrant": "apt-get install vagrant, or from developer.hashicorp.com/vagrant",
    "virsh": "apt-get install libvirt-clients libvirt-daemon-system dnsmasq-base",
    "qemu-img": "apt-get install qemu-utils",
    "ssh": "apt-get install openssh-client",
    "VBoxManage": "Install VirtualBox from virtualbox.org, and have VBoxManage in PATH",
}
ASK_S = 30.0
RESIZES = (2, 4)
"""The first Vagrant that gives a machine another disk than its box's without being told it may."""
PLUGINS = (
    "/usr/share/rubygems-integration/*/gems/vagrant-libvirt-*",
    "/usr/share/vagrant/gems/gems/vagrant-libvirt-*",
)
WINRM = (
    "/usr/share/rubygems-integration/*/gems/winrm-[0-9]*",
    "/opt/vagrant/embedded/gems/**/gems/winrm-[0-9]*",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    finding: str
    remedy: str = ""


def present() -> tuple[str, ...]:
    """The providers of Vagrant's whose own tool this host has; none without Vagrant."""
    if shutil.which("vagrant") is None:
        return ()
    return tuple(name for name, tool in TOOLS.items() if shutil.which(tool))


def examine(provider: str, *, booting: bool = True) -> Iterator[Finding]:
    """What one provider needs on this host.

    Args:
        booting: whether machines are booted, too: Packer bakes what libvirt boots without libvirt.
    """
    own = {"libvirt": ("virsh", "qemu-img"), "virtualbox": ("VBoxManage",)}.get(provider, ())
    if provider == "libvirt" and not booting:
        own = ()
    missing = False
    for name in ("vagrant", *own, "ssh"):
        place = shutil.which(name)
        missing = missing or place is None
        yield Finding(
            name=name,
            ok=place is not None,
            finding=place or f"not installed; needed for {provider}",
            remedy="" if place else COMMANDS[name],
        )
    if provider == "libvirt" and booting and not missing:
        yield _plugin()
        yield _daemon()
        if KVM.exists():
            yield _kvm()


def lacks(target: Target) -> tuple[str, str]:
    """What Vagrant cannot do for a target, and what to do about it; nothing where it can."""
    if target.distro.windows and target.communicator == "winrm" and not _has_winrm():
        return (
            "Vagrant has no WinRM, by which ssh is set up in this machine",
            "vagrant plugin install winrm, winrm-fs, winrm-elevated; or communicator: ssh",
        )
    if target.size.disk_mib and target.provider != "libvirt" and not _resizes_disks():
        return (
            f"Vagrant before {'.'.join(map(str, RESIZES))} ignores disk_mib with this provider",
            "Install a newer Vagrant, set VAGRANT_EXPERIMENTAL=disks, or leave disk_mib out.",
        )
    return "", ""


def _has_winrm() -> bool:
    """Whether Vagrant has the library that talks WinRM; Debian's has not."""
    return bool(_gems("winrm-[0-9]*", WINRM))


def _resizes_disks() -> bool:
    """Whether Vagrant makes a disk as large as it is told; one whose version is unknown may."""
    allowed = os.environ.get("VAGRANT_EXPERIMENTAL", "").lower().split(",")
    if allowed == ["1"] or "disks" in allowed:
        return True
    version = _version(shutil.which("vagrant") or "vagrant")
    return version is None or version >= RESIZES


@functools.cache  # Every target asks, and each start of Vagrant takes a second.
def _version(vagrant: str) -> tuple[int, int] | None:
    with contextlib.suppress(OrchestratorError, OSError):
        said = command.run([vagrant, "--version"], deadline=Deadline("vagrant", ASK_S)).stdout
        if found := re.search(rb"(\d+)\.(\d+)", said):
            return int(found[1]), int(found[2])
    return None


def _gems(name: str, places: tuple[str, ...]) -> list[Path]:
    own = sorted(vagrant_home().glob(f"gems/*/gems/{name}"))
    return own + [path for pattern in places for path in sorted(Path("/").glob(pattern[1:]))]


def _plugin() -> Finding:
    found = _gems("vagrant-libvirt-*", PLUGINS)
    return Finding(
        name="vagrant-libvirt",
        ok=bool(found),
        finding=str(found[0]) if found else "Vagrant has no provider libvirt",
        remedy="" if found else "apt-get install vagrant-libvirt, or vagrant plugin install it",
    )


def _daemon() -> Finding:
    from build_orchestrator.machine.vagrant.libvirt import answers, uri

    why = answers()
    return Finding(
        name="libvirt",
        ok=not why,
        finding=why or f"{uri()} answers",
        remedy=""
        if not why
        else "systemctl start libvirtd, and be root or a member of the group libvirt",
    )


def _kvm() -> Finding:
    """Whether libvirt's own user may open the device.

    Where it may not, libvirt asks QEMU anew what it can do each time that a machine is defined:
    half a minute for each, and Vagrant does it twice.
    """
    status = KVM.stat()
    mode = stat.S_IMODE(status.st_mode)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    open_to_it = mode & 0o006 == 0o006 or (group == "kvm" and mode & 0o060 == 0o060)
    return Finding(
        name=str(KVM),
        ok=True,  # It is slow, and works.
        finding="open to libvirt"
        if open_to_it
        else f"mode {mode:04o}, group {group}: closed to libvirt, so each boot takes a minute more",
        remedy=""
        if open_to_it or os.environ.get("LIBVIRT_DEFAULT_URI")
        else "as root: chgrp kvm /dev/kvm; chmod 660 /dev/kvm",
    )
