"""Things to publish, for the tests of destinations."""

from __future__ import annotations

import hashlib
from pathlib import Path

from build_orchestrator.model import (
    Artifact,
    Build,
    Deadlines,
    Distro,
    ImageSource,
    Naming,
    Recipe,
    Size,
    Target,
)
from build_orchestrator.publish import Item

KEY = "1.0/build/agent.tar.gz"


def item(content: bytes) -> Item:
    """Bytes that are to lie under the one key."""
    digest = hashlib.sha256(content).hexdigest()
    return Item(key=KEY, content=content, size_bytes=len(content), sha256=digest)


def artifact(folder: Path, content: bytes, name: str = "agent.tar.gz") -> Artifact:
    """A file of a run folder, as if it had been collected."""
    (folder / name).write_bytes(content)
    return Artifact(
        name=name,
        path=str(folder / name),
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content).hexdigest(),
    )


def build_to(*destinations: str, key: str = "ab" * 32, folder: str = "1.0/build") -> Build:
    """A build that is to be published to these destinations."""
    target = Target(
        name="debian_bookworm_fake",
        distro=Distro(name="debian_bookworm", distribution="Debian", release="bookworm"),
        provider="fake",
        image=ImageSource(),
        size=Size(),
        deadlines=Deadlines(),
    )
    return Build(
        target=target,
        recipe=Recipe(name="agent", script="s", inputs=(), outputs=(), destinations=destinations),
        naming=Naming(),
        outputs=(),
        environment={},
        key=key,
        folder=folder,
    )
