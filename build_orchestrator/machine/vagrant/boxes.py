"""Boxes: added to Vagrant's own collection before anything boots, one at a time for each box.

A public box is added by its name and version. A box that is a file of ours (made on this host, or
named by an address or path with a checksum) gets a version made of its checksum, so that another
file is another box.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    HostNotReady,
    Interrupted,
    OrchestratorError,
)
from build_orchestrator.locks import locked, state_home
from build_orchestrator.machine.vagrant.adapter import Caller, vagrant_home
from build_orchestrator.machine.vagrant.libvirt import Libvirt
from build_orchestrator.masking import shown
from build_orchestrator.model import Image, ImageSource

OnLine = Callable[[str], None]


def place_of(name: str, version: str, provider: str) -> Path | None:
    """Where Vagrant keeps this box; None where it has none."""
    for found in _places_of(name, version, provider):
        if (found / "metadata.json").is_file():
            return found
    return None


def _places_of(name: str, version: str, provider: str) -> list[Path]:
    """The folders of a box, whatever is in them."""
    folder = name.replace(":", "-VAGRANTCOLON-").replace("/", "-VAGRANTSLASH-")
    place = vagrant_home() / "boxes" / folder / version
    # Newer Vagrants have a folder for the architecture in between.
    found = (place / provider, *sorted(place.glob(f"*/{provider}")))
    return [each for each in found if each.is_dir() and each.parent.name != provider]


def public_box(
    source: ImageSource, provider: str, *, deadline: Deadline, cancel: Cancel, on_line: OnLine
) -> Image:
    """The box with this name and version, added where it is missing.

    Raises:
        EnvironmentFailure: it could not be fetched.
        HostNotReady: there is no such box, or no Vagrant.
    """

    def add(caller: Caller, folder: Path) -> None:
        del folder
        on_line(f"fetching the box {source.box} {source.version}")
        caller.add_box(source.box, provider, source.version)

    return _added(source.box, source.version, provider, "", add, deadline, cancel, on_line)


def file_box(
    name: str,
    url: str,
    sha256: str,
    provider: str,
    *,
    deadline: Deadline,
    cancel: Cancel,
    on_line: OnLine,
) -> Image:
    """The box in a file, which Vagrant fetches and checks, added where it is missing."""
    version = version_of(sha256)

    def add(caller: Caller, folder: Path) -> None:
        on_line(f"adding the box {name} from {shown(url)}")
        box = {"name": provider, "url": url, "checksum_type": "sha256", "checksum": sha256}
        versions = [{"version": version, "providers": [box]}]
        catalogue = folder / "catalogue.json"
        catalogue.write_text(json.dumps({"name": name, "versions": versions}))
        caller.add_catalogue(catalogue, provider)

    return _added(name, version, provider, sha256, add, deadline, cancel, on_line)


def version_of(sha256: str) -> str:
    """The version that a box in a file has in Vagrant's collection."""
    return f"0.0.{int(sha256[:12], 16)}"


def remove_file_box(name: str, sha256: str, provider: str, *, deadline: Deadline) -> None:
    """Take a box that was in a file out of Vagrant's collection, and its disk out of libvirt. One
    that was never added, or is gone, is fine; no machine may be made of it.

    Raises:
        EnvironmentFailure: Vagrant does not let it go.
    """
    version = version_of(sha256)
    with (
        locked(_lock(name, version, provider), deadline=deadline),
        tempfile.TemporaryDirectory(prefix="bo-box-") as folder,
    ):
        place = place_of(name, version, provider)
        if place is None:
            return
        if provider == "libvirt":
            Libvirt().drop(place, name, version, deadline=deadline)
        Caller(Path(folder), "box", deadline=deadline).remove_box(name, provider, version)


def local_url(path: Path) -> str:
    """A file of this host as Vagrant's downloader takes it.

    Raises:
        HostNotReady: there is no such file.
    """
    if not path.is_file():
        raise HostNotReady(f"{path}: there is no such box")
    return path.absolute().as_uri()


def _added(
    name: str,
    version: str,
    provider: str,
    sha256: str,
    add: Callable[[Caller, Path], None],
    deadline: Deadline,
    cancel: Cancel,
    on_line: OnLine,
) -> Image:
    begun = _begun(name, version, provider)
    if begun.exists() or place_of(name, version, provider) is None:
        with (
            locked(_lock(name, version, provider), deadline=deadline, cancel=cancel),
            tempfile.TemporaryDirectory(prefix="bo-box-") as folder,
            _whole(begun, _places_of(name, version, provider)),
        ):
            if place_of(name, version, provider) is None:
                caller = Caller(
                    Path(folder), "box", deadline=deadline, cancel=cancel, on_line=on_line
                )
                add(caller, Path(folder))
    if place_of(name, version, provider) is None:
        raise EnvironmentFailure(
            f"the box {name} {version} is not where Vagrant keeps its boxes",
            details=str(vagrant_home() / "boxes"),
        )
    return Image(source=f"{name} {version}", sha256=sha256, disk=name, version=version)


@contextlib.contextmanager
def _whole(begun: Path, places: list[Path]) -> Iterator[None]:
    """Begin without half a box, which Vagrant neither uses nor replaces, and note what may leave
    one: Vagrant moves a box's files into its folder one by one, and may be killed."""
    for place in places:
        if begun.exists() or not (place / "metadata.json").is_file():
            shutil.rmtree(place)
    begun.touch()
    try:
        yield
    except (DeadlineExceeded, Interrupted):
        raise  # It was killed.
    except OrchestratorError:
        begun.unlink(missing_ok=True)
        raise
    begun.unlink(missing_ok=True)


def _begun(name: str, version: str, provider: str) -> Path:
    """Is there while this box is being added to this collection, or since that was broken off."""
    key = hashlib.sha256(f"{vagrant_home()} {name} {version} {provider}".encode()).hexdigest()
    return state_home() / "locks" / f"box-{key[:32]}.begun"


def _lock(name: str, version: str, provider: str) -> Path:
    """Of whoever adds this box, or removes it."""
    key = hashlib.sha256(f"{name} {version} {provider}".encode()).hexdigest()[:32]
    return state_home() / "locks" / f"box-{key}"
