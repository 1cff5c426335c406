"""Images that come from a URL or a path, with a checksum: fetched once, kept by their content."""

from __future__ import annotations

import hashlib
import json
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from build_orchestrator import cache, command
from build_orchestrator.command import Consumer
from build_orchestrator.configuration.files import is_there
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, HostNotReady
from build_orchestrator.masking import shown
from build_orchestrator.model import Image, ImageSource

KIND = "images"
CHUNK = 1 << 20
REPORT_BYTES = 64 << 20

FETCH = """\
import shutil, sys, urllib.request
with urllib.request.urlopen(sys.stdin.readline().strip(), timeout=60) as answer:
    shutil.copyfileobj(answer, sys.stdout.buffer)
"""

OnLine = Callable[[str], None]


def lacking(source: ImageSource, project: Path) -> dict[str, str]:
    """What is wrong with each path of an image, by its field; nothing where the cache has it."""
    paths = {"path": source.path, "kernel": source.kernel, "initrd": source.initrd}
    found = {
        field: wrong
        for field, path in paths.items()
        if path and not _is_remote(path) and (wrong := path_problem(path, project))
    }
    return {} if found and cache.is_cached(KIND, key_of(source)) else found


def path_problem(path: str, project: Path) -> str:
    """What is wrong with where an image or box is said to be on this host."""
    place = project / path
    if not is_there(place):
        return f"{path} does not exist"
    return f"{path} is a folder, not a file" if place.is_dir() else ""


def download(
    source: ImageSource, *, project: Path, deadline: Deadline, cancel: Cancel, on_line: OnLine
) -> Image:
    """Return the image, fetched and verified where the cache has none.

    Raises:
        EnvironmentFailure: out of reach, or not the bytes that the checksum promises.
    """
    address = source.url or source.path
    origin = shown(address)
    parts = {"disk.qcow2": (address, source.sha256)}
    if source.kernel:
        parts["vmlinuz"] = (source.kernel, source.kernel_sha256)
    if source.initrd:
        parts["initrd.img"] = (source.initrd, source.initrd_sha256)

    def fill(folder: Path) -> None:
        for name, (address, sha256) in parts.items():
            on_line(f"fetching {shown(address)}")
            _keep(address, project, folder / name, sha256, deadline, cancel, on_line)
        _refuse_strange_disks(folder / "disk.qcow2", origin, deadline)

    folder = cache.entry(KIND, key_of(source), fill, deadline=deadline, cancel=cancel)
    return Image(
        source=origin,
        sha256=source.sha256,
        disk=str(folder / "disk.qcow2"),
        kernel=str(folder / "vmlinuz") if source.kernel else "",
        initrd=str(folder / "initrd.img") if source.initrd else "",
    )


def key_of(source: ImageSource) -> str:
    """The image's name in the cache: over the checksums of all that it is made of."""
    sums = [source.sha256]
    sums += [source.kernel_sha256] if source.kernel else []
    sums += [source.initrd_sha256] if source.initrd else []
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()[:32]


def _is_remote(address: str) -> bool:
    return urllib.parse.urlsplit(address).scheme in ("http", "https")


def _keep(
    address: str,
    project: Path,
    place: Path,
    sha256: str,
    deadline: Deadline,
    cancel: Cancel,
    on_line: OnLine,
) -> None:
    digest = hashlib.sha256()
    size = told = 0
    with place.open("wb") as file:

        def take(chunk: bytes) -> None:
            nonlocal size, told
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
            if size - told >= REPORT_BYTES:
                told = size
                on_line(f"fetching {shown(address)}: {size >> 20} MiB")

        if _is_remote(address):
            _fetch(address, take, deadline, cancel)
        else:
            _read(project / address, take, deadline, cancel)
    if digest.hexdigest() != sha256:
        raise EnvironmentFailure(
            f"{shown(address)} is not what its checksum promises",
            details=f"expected sha256 {sha256}\ngot      sha256 {digest.hexdigest()}",
            resolution="Fetch it again, or correct sha256 in targets.yaml.",
        )


def _fetch(address: str, take: Consumer, deadline: Deadline, cancel: Cancel) -> None:
    """By a child of its own: no read of ours could be broken off while a server is slow or silent.

    The address, whose query may hold a token, goes over its standard input.
    """
    done = command.run(
        [sys.executable, "-I", "-c", FETCH],
        stdin=f"{address}\n".encode(),
        stdout=take,
        deadline=deadline,
        cancel=cancel,
    )
    if done.status != 0:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise EnvironmentFailure(
            f"{shown(address)} could not be fetched",
            details=words[-1] if words else f"ended with status {done.status}",
            resolution="Is it reachable from this host? Proxies are taken from the environment.",
        )


def _read(path: Path, take: Consumer, deadline: Deadline, cancel: Cancel) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                cancel.check()
                deadline.check()
                take(chunk)
    except FileNotFoundError as error:
        raise HostNotReady(f"{path}: there is no such image") from error


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
