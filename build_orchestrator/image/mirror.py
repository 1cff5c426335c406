"""Where packages come from: this host's own package sources, else the tool's default.

No address stands in our files. On a Debian host ``apt-get indextargets`` knows the mirror that its
administrator chose; elsewhere mmdebstrap knows the distribution's own.
"""

from __future__ import annotations

import shutil

from build_orchestrator.command import run
from build_orchestrator.deadline import Deadline

Sources = tuple[str, ...]


def package_sources(suite: str, *, deadline: Deadline) -> list[Sources]:
    """What to hand to mmdebstrap, best first: lists of one-line sources, or nothing at all."""
    sites = _sites(deadline)
    main, security = sites.get("Debian"), sites.get("Debian-Security")
    if not main:
        return [()]
    only_main = (f"deb {main} {suite} main",)
    if not security:
        return [only_main]
    return [
        (
            *only_main,
            f"deb {main} {suite}-updates main",
            f"deb {security} {suite}-security main",
        ),
        only_main,
    ]


def _sites(deadline: Deadline) -> dict[str, str]:
    """The address that this host uses for each archive, by the archive's label."""
    if shutil.which("apt-get") is None:
        return {}
    finished = run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"],
        deadline=deadline,
    )
    sites: dict[str, str] = {}
    for line in finished.stdout.decode(errors="replace").splitlines():
        label, _, address = line.partition(" ")
        if address:
            sites.setdefault(label, address)
    return sites
