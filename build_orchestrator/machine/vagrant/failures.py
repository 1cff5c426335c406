"""What a failed call of Vagrant's means, by the class of its error.

Vagrant's exit status is 0 or 1, and its messages are for people and translated; the class of the
error that it ended with is neither. One class tells too little: a box that nobody has and a
catalogue that does not answer are the same to Vagrant. There the server's own status decides.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from build_orchestrator.errors import EnvironmentFailure, HostNotReady, OrchestratorError

FREE_MIB = 256
"""A disk with less than this left explains whatever went wrong."""

NOT_READY = {
    "ProviderNotFound": "`build doctor` says how to get the provider.",
    "ProviderNotUsable": "`build doctor` says what the provider lacks.",
    "NoDefaultProvider": "`build doctor` says how to get the provider.",
    "VirtualBoxNotDetected": "Install VirtualBox, or correct PATH.",
    "VirtualBoxInstallIncomplete": "Install VirtualBox again: parts of it are missing.",
    "VBoxManageNotFoundError": "Install VirtualBox, or correct PATH.",
    "VirtualBoxInvalidVersion": "Install a version of VirtualBox that this Vagrant knows.",
    "VirtualBoxKernelModuleNotLoaded": "Load VirtualBox's kernel module: vboxconfig, or modprobe.",
    "BoxAddNoMatchingProvider": "Correct image.box or image.version in targets.yaml.",
    "BoxAddNoMatchingVersion": "Correct image.version in targets.yaml.",
    "BoxProviderDoesntMatch": "Correct image.box in targets.yaml: it is another provider's box.",
    "BoxChecksumMismatch": "Correct image.sha256 in targets.yaml, or fetch the box again.",
    "BoxChecksumInvalidType": "Correct image.sha256 in targets.yaml.",
    "BoxNotFound": "Correct image.box in targets.yaml; its publisher may have removed it.",
    "VagrantfileSyntaxError": "Correct vagrant/Vagrantfile.j2.",
    "VagrantfileLoadError": "Correct vagrant/Vagrantfile.j2.",
    "ConfigInvalid": "Correct the target's row in targets.yaml, or vagrant/Vagrantfile.j2.",
    "VagrantVersionBad": "Install a newer Vagrant.",
}
"""Errors that a second try would meet again: what to do about them."""

PASSING = {
    "VMBootTimeout": "Raise deadlines.boot_s in targets.yaml if this host is just slow.",
    "ForwardPortCollision": "Something took the port meanwhile; a second try takes another.",
    "MachineLocked": "Another process of Vagrant's works on this machine; try again.",
    "MachineActionLockedError": "Another process of Vagrant's works on this machine; try again.",
    "EnvironmentLockedError": "Another process of Vagrant's holds its lock; try again.",
    "BoxAddShortNotFound": "Is the box's catalogue reachable from this host? Try again.",
    "BoxMetadataDownloadError": "Is the box's catalogue reachable from this host? Try again.",
    "DownloaderError": "Is the box's address reachable from this host? Try again.",
    "DownloaderInterrupted": "Try again.",
}
"""Errors that may pass. Those in neither list are taken for passing, too."""

NOWHERE = re.compile(r"returned error: 4(?:04|10)\b")
"""How curl, with which Vagrant fetches, says that a server has no such thing; in every language."""
FETCHING = frozenset({"BoxAddShortNotFound", "BoxMetadataDownloadError", "DownloaderError"})


def failure(
    what: str, errors: Iterable[tuple[str, str]], words: str, places: Iterable[Path]
) -> OrchestratorError:
    """The error to raise after a call that ended with a status other than 0.

    Args:
        what: the call, such as ``vagrant up``.
        errors: class and message of Vagrant's ``error-exit`` rows.
        words: the last that it said.
        places: where it writes; a full disk explains any error.
    """
    found = list(errors)
    kind = found[-1][0].rpartition("::")[2] if found else ""
    if kind in FETCHING and NOWHERE.search(found[-1][1]):
        kind = "BoxNotFound"
    details = "\n".join(f"{each}: {message}" for each, message in found) or words.strip()
    if full := _full(places):
        return EnvironmentFailure(
            f"{what} failed, and {full} is full",
            details=details,
            resolution=f"Make room below {full}, then try again.",
        )
    if kind in NOT_READY:
        return HostNotReady(f"{what} failed: {kind}", details=details, resolution=NOT_READY[kind])
    return EnvironmentFailure(
        f"{what} failed{f': {kind}' if kind else ''}",
        details=details,
        resolution=PASSING.get(kind, "Try again; console.txt of this target has all it said."),
    )


def _full(places: Iterable[Path]) -> str:
    for place in places:
        try:
            if shutil.disk_usage(place).free >> 20 < FREE_MIB:
                return str(place)
        except OSError:  # Not there, or not ours to look into.
            continue
    return ""
