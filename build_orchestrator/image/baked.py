"""The cache's index of baked images: what Packer has made on this host, of what, and when.

Each image is an entry of the cache, ``<key>-<when>``, complete or absent: its folder holds the disk
or the box, and ``image.json`` with everything known about it. The listing of the entries is the
index, so that no two bakes can tear it. An image of AWS lies in AWS; its entry holds its id, for
who removes it: what builds start from is in ``images.lock.yaml`` (``image/lock.py``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from build_orchestrator import cache
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.inputs import explain
from build_orchestrator.locks import (
    Lock,
    cache_home,
    locked,
    private_folder,
    try_lock,
    wait_for,
)
from build_orchestrator.machine.qemu import snapshot
from build_orchestrator.model import Build, Flavour, Image, Input
from build_orchestrator.plan import key_of
from build_orchestrator.render.vagrantfile import MADE_HERE

KIND = "baked"
FACTS = "image.json"
SCHEMA = 1
SHORT = 32
"""Hex digits of the key in an entry's name."""

OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baked:
    """One baked image: the content of its ``image.json``."""

    schema: int = SCHEMA
    project: str
    """The folder of the project for which it was made."""
    target: str
    distro: str
    provider: str
    flavour: str
    region: str = ""
    endpoint: str = ""
    key: str
    inputs: tuple[Input, ...]
    base: str
    """What it was made of, in words."""
    made_at: float
    """Seconds since the epoch."""
    packer: str
    """The version that made it."""
    run_id: str
    sha256: str = ""
    """Of its file."""
    size_bytes: int = 0
    """Of its file, or of its disks in AWS."""
    file: str = ""
    """In its folder: a disk or a box; empty for an image of AWS."""
    kernel: str = ""
    initrd: str = ""
    ami: str = ""
    snapshots: tuple[str, ...] = ()
    """The disks of an image of AWS, which its end does not take along."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """What is installed in it: name -> version."""

    @property
    def entry(self) -> str:
        """Its name in the cache."""
        return f"{self.key[:SHORT]}-{int(self.made_at)}"

    @property
    def folder(self) -> Path:
        return cache_home() / KIND / self.entry

    @property
    def title(self) -> str:
        """What a report calls it."""
        made = time.strftime("%Y-%m-%d", time.gmtime(self.made_at))
        return f"baked {self.flavour} of {made} ({self.base})"

    @property
    def box(self) -> str:
        """What Vagrant calls it, where it is a box."""
        return f"{MADE_HERE}/{self.distro}-{self.flavour}"

    def age_s(self, now: float) -> float:
        return max(0.0, now - self.made_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Whether a build can start from a baked image."""

    image: Baked | None
    reason: str = ""
    """Why there is none that will do."""
    changes: tuple[str, ...] = ()
    """What has changed since the newest one was made, a line each."""


def all_images() -> list[Baked]:
    """Every image in the index, newest first. What is damaged or of a later version is none."""
    found = []
    for path in (cache_home() / KIND).glob(f"*/{FACTS}"):
        try:
            image = msgspec.json.decode(path.read_bytes(), type=Baked)
        except (OSError, msgspec.MsgspecError):
            continue
        if image.schema == SCHEMA and image.entry == path.parent.name:
            found.append(image)
    return sorted(found, key=lambda each: each.made_at, reverse=True)


def images_for(build: Build, known: Iterable[Baked]) -> list[Baked]:
    """Those of a build's target and flavour, where it runs; newest first."""
    assert build.flavour is not None
    wanted = (build.name, build.flavour.name, _region(build))
    found = [each for each in known if (each.target, each.flavour, each.region) == wanted]
    return sorted(found, key=lambda each: each.made_at, reverse=True)


def choose(build: Build, inputs: Iterable[Input], known: Iterable[Baked]) -> Choice:
    """The one of these images that a build can start from, or why there is none."""
    assert build.flavour is not None
    inputs, known = tuple(inputs), tuple(known)
    key = key_of(inputs)
    newest = next(iter(images_for(build, known)), None)
    # Another project's target may have the same name.
    image = next((each for each in known if _is(each, build, key)), None)
    if image is None and newest is None:
        return Choice(image=None, reason="none was baked yet")
    if image is None:
        assert newest is not None
        changes = explain(newest.inputs, inputs)
        reason = f"what it is made of has changed: {changes[0]}"
        return Choice(image=None, reason=reason, changes=changes)
    return _usable(image, build.flavour)


def available(choice: Choice, build: Build, *, deadline: Deadline, cancel: Cancel) -> Choice:
    """The same choice, once AWS has said that its image is still there.

    Raises:
        EnvironmentFailure: AWS does not answer.
    """
    if choice.image is None or not choice.image.ami:
        return choice
    from build_orchestrator.machine.ec2 import images

    image, options = choice.image, build.target.options
    endpoint = options.get("endpoint", "")
    if images.exists(
        image.ami, region=image.region, endpoint=endpoint, deadline=deadline, cancel=cancel
    ):
        return choice
    return Choice(image=None, reason=f"its {image.ami} is not in {image.region} any more")


def _region(build: Build) -> str:
    return build.target.options.get("region", "") if build.target.provider == "aws" else ""


def _is(image: Baked, build: Build, key: str) -> bool:
    assert build.flavour is not None
    return (image.key, image.provider, image.flavour, image.region) == (
        key,
        build.target.provider,
        build.flavour.name,
        _region(build),
    )


def _usable(image: Baked, flavour: Flavour) -> Choice:
    age_s = image.age_s(time.time())
    if age_s > flavour.max_age_s:
        days = f"{age_s / 86400:.0f} days old"
        return Choice(image=None, reason=f"it is {days}, more than max_image_age")
    names = filter(None, (image.file, image.kernel, image.initrd))
    lost = [name for name in names if not (image.folder / name).is_file()]
    if lost:
        return Choice(image=None, reason=f"its {' and '.join(lost)} is gone from the cache")
    return Choice(image=image)


def start_from(image: Baked, *, deadline: Deadline, cancel: Cancel, on_line: OnLine) -> Image:
    """The image as machines start from it.

    Raises:
        EnvironmentFailure: it is not where it was.
    """
    if image.ami:
        return Image(source=f"{image.ami}, {image.title}", sha256="", disk=image.ami)
    if image.file.endswith(".box"):
        from build_orchestrator.machine.vagrant.boxes import file_box, local_url

        box = file_box(
            image.box,
            local_url(image.folder / image.file),
            image.sha256,
            image.provider,
            deadline=deadline,
            cancel=cancel,
            on_line=on_line,
        )
        return dataclasses.replace(box, source=image.title)
    return Image(
        source=image.title,
        sha256=image.sha256,
        disk=str(image.folder / image.file),
        kernel=str(image.folder / image.kernel) if image.kernel else "",
        initrd=str(image.folder / image.initrd) if image.initrd else "",
    )


@contextlib.contextmanager
def recorded(
    build: Build,
    inputs: tuple[Input, ...],
    make: Callable[[Path], Baked],
    *,
    force: bool,
    deadline: Deadline,
    cancel: Cancel,
) -> Iterator[Baked]:
    """Make an image and put it into the index; who waited for another to make it, takes that one.
    Nobody on this host removes it before the block ends.

    Args:
        make: fills an empty folder, and says what is in it.
        force: also where a fresh one is there.
    """
    key, began = key_of(inputs), int(time.time())
    before = {each.entry for each in all_images()}
    with locked(_lock(key[:SHORT]), deadline=deadline, cancel=cancel):
        choice = choose(build, inputs, all_images())
        image = available(choice, build, deadline=deadline, cancel=cancel).image
        if image is None or (force and image.entry in before):
            image = _made(f"{key[:SHORT]}-{began}", make, began, deadline, cancel)
        yield image


def _made(
    name: str, make: Callable[[Path], Baked], began: int, deadline: Deadline, cancel: Cancel
) -> Baked:
    made: list[Baked] = []

    def fill(folder: Path) -> None:
        image = dataclasses.replace(make(folder), made_at=float(began))
        (folder / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(image), indent=2))
        made.append(image)

    place = cache.entry(KIND, name, fill, deadline=deadline, cancel=cancel)
    if not made:  # Two bakes of one second: the other one's is as good.
        return msgspec.json.decode((place / FACTS).read_bytes(), type=Baked)
    return made[0]


def hold(image: Baked, *, deadline: Deadline, cancel: Cancel) -> Lock:
    """Keep an image from being removed on this host, until the lock is released or we are dead.

    Raises:
        DeadlineExceeded, Interrupted: somebody was removing it all the while.
    """
    return wait_for(_lock(image.entry), shared=True, deadline=deadline, cancel=cancel)


@contextlib.contextmanager
def alone_with(image: Baked) -> Iterator[bool]:
    """Whether nobody on this host is baking an image or holds it; nobody will during the block."""
    locks = [try_lock(_lock(name)) for name in (image.key[:SHORT], image.entry)]
    try:
        yield None not in locks
    finally:
        for lock in filter(None, locks):
            lock.release()


def _lock(name: str) -> Path:
    """Of who bakes what has a key, or of an entry."""
    return private_folder(cache_home() / KIND) / f"{name}.lock"


def remove(image: Baked, *, deadline: Deadline) -> None:
    """Remove an image: its files with its saved first starts, from Vagrant's collection, from AWS
    with its snapshots. The caller is alone with it.

    Raises:
        EnvironmentFailure: it could not be removed; what is left of it is still in the index.
    """
    if image.ami:
        from build_orchestrator.machine.ec2 import images

        images.remove(
            image.ami,
            snapshots=image.snapshots,
            region=image.region,
            endpoint=image.endpoint,
            deadline=deadline,
        )
    if image.file.endswith(".box"):
        from build_orchestrator.machine.vagrant.boxes import remove_file_box

        remove_file_box(image.box, image.sha256, image.provider, deadline=deadline)
    shutil.rmtree(image.folder, ignore_errors=True)
    if image.folder.exists():
        raise EnvironmentFailure(f"{image.folder} could not be removed")
    if image.file:
        snapshot.forget(str(image.folder / image.file))


def packages_of(text: str) -> dict[str, str]:
    """``NAME VERSION`` lines, as inside.sh lists them."""
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


def to_json(image: Baked) -> dict[str, object]:
    """An image as a program reads it."""
    content: dict[str, object] = json.loads(msgspec.json.encode(image))
    return content
