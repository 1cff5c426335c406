"""Images that come from a URL or a path, with a checksum: fetched once, kept by their content."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from build_orchestrator import cache, command
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, HostNotReady
from build_orchestrator.model import Image, ImageSource

KIND = "images"
CHUNK = 1 << 20
REPORT_BYTES = 64 << 20

OnLine = Callable[[str], None]


def download(
    source: ImageSource, *, project: Path, deadline: Deadline, cancel: Cancel, on_line: OnLine
) -> Image:
    """Return the image, fetched and verified where the cache has none.

    Raises:
        EnvironmentFailure: out of reach, or not the bytes that the checksum promises.
    """
    origin = source.url or source.path
    parts = {"disk.qcow2": (origin, source.sha256)}
    if source.kernel:
        parts["vmlinuz"] = (source.kernel, source.kernel_sha256)
    if source.initrd:
        parts["initrd.img"] = (source.initrd, source.initrd_sha256)

    def fill(folder: Path) -> None:
        for name, (address, sha256) in parts.items():
            on_line(f"fetching {address}")
            chunks = _read(address, project, deadline)
            _keep(chunks, folder / name, address, sha256, deadline, cancel, on_line)
        _refuse_strange_disks(folder / "disk.qcow2", origin, deadline)

    key = hashlib.sha256(" ".join(sha for _, sha in parts.values()).encode()).hexdigest()[:32]
    folder = cache.entry(KIND, key, fill, deadline=deadline, cancel=cancel)
    return Image(
        source=origin,
        sha256=source.sha256,
        disk=str(folder / "disk.qcow2"),
        kernel=str(folder / "vmlinuz") if source.kernel else "",
        initrd=str(folder / "initrd.img") if source.initrd else "",
    )


def _read(address: str, project: Path, deadline: Deadline) -> Iterator[bytes]:
    is_url = urllib.parse.urlsplit(address).scheme in ("http", "https")
    try:
        if is_url:
            # The timeout is for each read; the deadline of the whole is checked per chunk.
            with urllib.request.urlopen(address, timeout=min(60, deadline.remaining_s)) as answer:
                while chunk := answer.read(CHUNK):
                    yield chunk
        else:
            with (project / address).open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
    except FileNotFoundError as error:
        raise HostNotReady(f"{project / address}: there is no such image") from error
    except (urllib.error.URLError, OSError) as error:
        raise EnvironmentFailure(
            f"{address} could not be fetched",
            details=str(getattr(error, "reason", error)),
            resolution="Is it reachable from this host? Proxies are taken from the environment.",
        ) from error


def _keep(
    chunks: Iterator[bytes],
    place: Path,
    address: str,
    sha256: str,
    deadline: Deadline,
    cancel: Cancel,
    on_line: OnLine,
) -> None:
    digest = hashlib.sha256()
    size = told = 0
    with place.open("wb") as file:
        for chunk in chunks:
            cancel.check()
            deadline.check()
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
            if size - told >= REPORT_BYTES:
                told = size
                on_line(f"fetching {address}: {size >> 20} MiB")
    if digest.hexdigest() != sha256:
        raise EnvironmentFailure(
            f"{address} is not what its checksum promises",
            details=f"expected sha256 {sha256}\ngot      sha256 {digest.hexdigest()}",
            resolution="Fetch it again, or correct sha256 in targets.yaml.",
        )


def _refuse_strange_disks(disk: Path, origin: str, deadline: Deadline) -> None:
    """Only a qcow2 that stands alone: one with a backing file would show us files of this host."""
    finished = command.run(
        ["qemu-img", "info", "--output=json", "-f", "qcow2", str(disk)], deadline=deadline
    )
    if finished.status != 0:
        raise EnvironmentFailure(
            f"{origin} is not a qcow2 disk",
            details=finished.stderr.decode(errors="replace").strip(),
            resolution="Convert it: qemu-img convert -O qcow2 FROM TO",
        )
    facts = json.loads(finished.stdout)
    if "backing-filename" in facts or "data-file" in str(facts.get("format-specific", {})):
        raise EnvironmentFailure(
            f"{origin} refers to another file and is refused",
            resolution="Flatten it: qemu-img convert -O qcow2 FROM TO",
        )
