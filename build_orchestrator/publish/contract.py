"""What a destination is. Every kind of destination passes the same contract tests."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Bytes that are to lie under a key, for ever."""

    key: str
    """Path below the destination, such as ``1.0/build/agent.tar.gz``."""
    content: Path | bytes
    size_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


def opened(content: Path | bytes) -> IO[bytes]:
    """The content of an item, to read.

    Raises:
        EnvironmentFailure: what was built is not in the run folder any more.
    """
    if isinstance(content, bytes):
        return io.BytesIO(content)
    try:
        return content.open("rb")
    except OSError as error:
        raise EnvironmentFailure(f"{content}: cannot be read", details=str(error)) from error


def changed(item: Item) -> EnvironmentFailure:
    """The error of bytes that are not the ones that were verified."""
    return EnvironmentFailure(
        f"{item.key}: changed after it was verified",
        resolution="Build again: what lies in the run folder is not what was built.",
    )


class Destination(Protocol):
    """Where artifacts are put so that users can fetch them."""

    @property
    def name(self) -> str:
        """As it was declared."""
        ...

    def address(self, key: str) -> str:
        """Path or address of a key."""
        ...

    def check(self) -> None:
        """Find out cheaply what would keep us from publishing here. Changes nothing.

        Raises:
            HostNotReady: this host cannot publish here.
        """
        ...

    def put(self, item: Item, *, deadline: Deadline, cancel: Cancel) -> None:
        """Put an item under its key: the whole of it or nothing, once and for ever.

        That the key holds the same bytes already is success.

        Raises:
            PublishConflict: the key holds other bytes; they stay.
            DestinationUnreachable: it could not be put, or not be seen to have arrived.
            EnvironmentFailure: this item cannot be published here; others may.
        """
        ...

    def read(self, key: str) -> bytes | None:
        """What lies under a key, in memory; None where there is nothing.

        Raises:
            DestinationUnreachable
        """
        ...

    def point_latest(self, folder: str) -> None:
        """Let ``latest`` point at what was built last, where such a thing can be.

        Raises:
            DestinationUnreachable
        """
        ...
