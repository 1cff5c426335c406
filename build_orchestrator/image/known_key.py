"""The key that everybody knows: with it Packer logs in to a box that was not made here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from build_orchestrator.errors import HostNotReady
from build_orchestrator.image import packer
from build_orchestrator.machine.vagrant.adapter import vagrant_home
from build_orchestrator.model import Target
from build_orchestrator.render.packerfile import BOXED

RSA = "insecure_private_key"
"""Every box knows it."""

ED25519 = "insecure_private_keys/vagrant.key.ed25519"
"""Vagrant has had it since 2.3.8, and boxes that were made since then may know it."""

SIGNS_BY_SHA2 = (1, 8, 1)
"""Packer's first version whose signatures with an RSA key OpenSSH 8.8 and later take."""


def wants_known_key(target: Target) -> bool:
    """Whether Packer logs in to this target's box with it: another one's disk is not opened."""
    made_here = target.provider == "libvirt" and bool(target.image.bootstrap)
    return target.provider in BOXED and not made_here


def known_key(target: Target) -> Path:
    """The key's file in Vagrant's home.

    Raises:
        HostNotReady: there is none, or Packer is too old for what there is.
    """
    home, version = vagrant_home(), packer.version()
    if not (home / RSA).is_file():
        raise HostNotReady(
            f"{home} has no {RSA}",
            details="Vagrant makes it when it is first called.",
            resolution="vagrant version",
        )
    if packer.numbers(version) >= SIGNS_BY_SHA2 or target.distro.legacy:
        return home / RSA
    if (home / ED25519).is_file():
        return home / ED25519
    raise HostNotReady(
        f"Packer {version} is too old to log in to the box of {target.name}: it signs with SHA-1, "
        "which OpenSSH 8.8 and later refuse",
        resolution="Install Packer 1.8.1 or later, or let a target of libvirt start from a box "
        "that is made here: image: {bootstrap: SUITE}.",
    )


def check_logins(targets: Iterable[Target]) -> None:
    """See that Packer can log in to these targets' boxes, as far as it can be known before Vagrant
    is first called.

    Raises:
        HostNotReady: it cannot, for the first one of which that is known.
    """
    for target in targets:
        if wants_known_key(target) and (vagrant_home() / RSA).is_file():
            known_key(target)
