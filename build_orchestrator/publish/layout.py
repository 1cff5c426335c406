"""What lies where below a destination (docs/reference/publish-layout.md).              (pure)"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from build_orchestrator.collect import sidecars
from build_orchestrator.model import Artifact, Build
from build_orchestrator.publish.contract import Item

KEYS = "keys"
LATEST = "latest"
RESERVED = frozenset({KEYS, LATEST, f"{LATEST}.txt"})
"""What lies beside the folders of versions, so that no version may be called like it."""

AGENT = re.compile(r"(?P<what>.+-agent)(?:_.+)?(?P<ending>\.tar\.gz|\.zip|\.exe)")
"""What an agent is called: what it is for, and a version or none."""

MEDIA_TYPES = {
    ".tar.gz": "application/gzip",
    ".zip": "application/zip",
    ".json": "application/json",
    ".sha256": "text/plain; charset=utf-8",
    ".md5": "text/plain; charset=utf-8",
}


def items_of(artifact: Artifact, folder: str) -> Iterator[Item]:
    """An artifact and its sidecars, in the order in which they are put."""
    yield Item(
        key=f"{folder}/{artifact.name}",
        content=Path(artifact.path),
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        media_type=_media_type(artifact.name),
    )
    for name, content in sidecars(artifact):
        yield _in_memory(f"{folder}/{name}", content)


def alias_of(artifact: Artifact, folder: str) -> Item | None:
    """An agent under the name that a Cloudify Manager looks for; None where it is no agent.

    That name is in small letters and without a version: ``debian-bookworm-agent.tar.gz`` for
    ``Debian-bookworm-agent_7.1.0-ga.tar.gz``.
    """
    agent = AGENT.fullmatch(artifact.name)
    name = f"{agent['what']}{agent['ending']}".lower() if agent else artifact.name
    if name == artifact.name:
        return None
    return Item(
        key=f"{folder}/{name}",
        content=Path(artifact.path),
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        media_type=_media_type(name),
    )


def record_of(artifacts: Iterable[Artifact], build: Build) -> Item:
    """``keys/<build key>.json``: says that a build is published, and wholly so.

    The same build and bytes give the same record.
    """
    record = {
        "schema": 1,
        "key": build.key,
        "target": build.name,
        "folder": build.folder,
        "artifacts": [
            {"name": each.name, "sha256": each.sha256, "size_bytes": each.size_bytes}
            for each in sorted(artifacts, key=lambda each: each.name)
        ],
    }
    content = json.dumps(record, indent=2).encode() + b"\n"
    return _in_memory(key_of_record(build), content)


def key_of_record(build: Build) -> str:
    """Where the record of a build lies."""
    return f"{KEYS}/{build.key}.json"


def named_in(record: bytes) -> list[tuple[str, str]]:
    """Name and key of each artifact that a record names; none where it is no record of ours."""
    try:
        content = json.loads(record)
        names = [each["name"] for each in content["artifacts"]]
        return [(name, f"{content['folder']}/{name}") for name in names]
    except (ValueError, TypeError, KeyError):
        return []


def _in_memory(key: str, content: bytes) -> Item:
    return Item(
        key=key,
        content=content,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        media_type=_media_type(key),
    )


def _media_type(name: str) -> str:
    for ending, media_type in MEDIA_TYPES.items():
        if name.endswith(ending):
            return media_type
    return "application/octet-stream"
