"""One thing that was looked at, and the programs of a host, which are most of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
    "newuidmap": "uidmap",
    "fakeroot": "fakeroot",
    "timeout": "coreutils",
}
"""Which package of Debian's family has a command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    finding: str
    remedy: str = ""
    """What to do about it; empty where all is well."""
    provider: str = ""
    """Which provider needs it; empty for all."""


def commands(purpose: str, names: tuple[str, ...], provider: str) -> Iterator[Check]:
    """Whether this host has these programs, which a provider needs for a purpose."""
    search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    for name in names:
        path = shutil.which(name, path=search)
        yield Check(
            name=name,
            ok=path is not None,
            finding=path or f"not installed; needed to {purpose}",
            remedy="" if path else f"apt-get install {PACKAGES[name]}",
            provider=provider,
        )
