"""Processes in namespaces of their own, which end with the first of them."""

from __future__ import annotations

import os

NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts"]
AS_USER = ["--user", "--map-root-user", "--map-auto"]


def isolated(script: str, *words: str) -> list[str]:
    """The command that runs a shell script so, as root of its namespaces; its processes carry the
    words."""
    as_user = AS_USER if os.geteuid() else []
    return [*NAMESPACES, *as_user, "sh", "-c", script, *words]
