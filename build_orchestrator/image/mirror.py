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
    main = _site("Debian", deadline)
    security = _site("Debian-Security", deadline)
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


def _site(label: str, deadline: Deadline) -> str:
    """The address that this host uses for an archive; empty where it uses none."""
    if shutil.which("apt-get") is None:
        return ""
    finished = run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"],
        deadline=deadline,
    )
    for line in finished.stdout.decode(errors="replace").splitlines():
        found, _, address = line.partition(" ")
        if found == label and address:
            return address
    return ""
