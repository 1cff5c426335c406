"""Images made on this host from a distribution's own packages, without a daemon.

mmdebstrap installs the packages into a tree, ``customize.sh`` makes a build machine of it, and
``mke2fs -d`` turns it into a disk without mounting anything. Root needs nothing else; an ordinary
user needs uidmap, sub-ids and fakeroot. Measured recipes: docs/explanation/images.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

from build_orchestrator import cache, command
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, HostNotReady
from build_orchestrator.image.mirror import package_sources
from build_orchestrator.model import Image

KIND = "images"
HOOK = "customize.sh"
RECIPE = "1"
"""Raised when a change in this file changes what an image is."""

PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "kmod", "iproute2", "e2fsprogs", "procps"),
    *("linux-image-cloud-amd64", "openssh-server", "ca-certificates", "python3"),
)
"""A small machine that a person would recognise; what a build needs is the recipe's business."""

FILE_SYSTEM_MIB = 8192
FEATURES = "^metadata_csum_seed,^orphan_file"
"""Features that older kernels and file system tools (bullseye) do not know."""

OnLine = Callable[[str], None]


def key_of(suite: str) -> str:
    """Everything of ours that decides what the image holds; the archive's state is not in it."""
    text = "\n".join((RECIPE, suite, *PACKAGES, str(FILE_SYSTEM_MIB), FEATURES, hook(HOOK)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def bootstrap(suite: str, *, deadline: Deadline, cancel: Cancel, on_line: OnLine) -> Image:
    """Return the image of a suite, made where the cache has none."""

    def fill(folder: Path) -> None:
        hooks = (hook(HOOK),)
        make(suite, folder, PACKAGES, hooks, deadline=deadline, cancel=cancel, on_line=on_line)

    folder = cache.entry(KIND, key_of(suite), fill, deadline=deadline, cancel=cancel)
    return _image(suite, folder)


def made_image(suite: str) -> Image | None:
    """The image of a suite, where the cache has it."""
    folder = cache.place_of(KIND, key_of(suite))
    return _image(suite, folder) if folder else None


def _image(suite: str, folder: Path) -> Image:
    facts = json.loads((folder / "image.json").read_text())
    return Image(
        source=f"bootstrap {suite}",
        sha256=facts["sha256"],
        disk=str(folder / "disk.qcow2"),
        kernel=str(folder / "vmlinuz"),
        initrd=str(folder / "initrd.img"),
    )


def make(
    suite: str,
    folder: Path,
    packages: Sequence[str],
    hooks: Sequence[str],
    *,
    deadline: Deadline,
    cancel: Cancel,
    on_line: OnLine,
) -> None:
    """Write disk.qcow2, its kernel, its initrd and image.json into an empty folder.

    Args:
        hooks: shell scripts that are run on the installed tree, in order.

    Raises:
        EnvironmentFailure: the packages or the disk could not be made.
    """
    with work_folder(folder) as work:
        install(suite, work, packages, hooks, deadline=deadline, cancel=cancel, on_line=on_line)
        on_line("making the disk")
        _take_kernel(work / "tree.tar", folder)
        _make_disk(work, deadline, cancel)
        command.run(
            ["qemu-img", "convert", "-O", "qcow2", str(work / "disk.raw"), "disk.qcow2"],
            deadline=deadline,
            cancel=cancel,
            cwd=folder,
        ).check("the image's disk could not be converted")
    with (folder / "disk.qcow2").open("rb") as disk:
        digest = hashlib.file_digest(disk, "sha256").hexdigest()
    facts = {"sha256": digest, "suite": suite, "made_at": int(time.time()), "recipe": RECIPE}
    (folder / "image.json").write_text(json.dumps(facts, indent=2) + "\n")


@contextlib.contextmanager
def work_folder(entry: Path) -> Iterator[Path]:
    """A folder for the tree: inside the cache's unfinished entry, which is removed with it.

    An ordinary user's tree belongs to his sub-ids, and to them his home is closed: it is made in
    /var/tmp, under a name that only one maker of this image has at a time (it holds the entry's
    lock), so that what a killed one left is removed by the next.
    """
    if os.geteuid() == 0:
        work = entry / "work"
    else:
        work = Path("/var/tmp") / f"build-orchestrator-{os.geteuid()}-{entry.name.split('.')[0]}"
        _remove(work)
    work.mkdir()
    work.chmod(0o755)
    try:
        with cache.told_if_full(work):
            yield work
    finally:
        _remove(work)


def _remove(work: Path) -> None:
    """Remove a work folder, also what belongs to this user's sub-ids in it."""
    shutil.rmtree(work, ignore_errors=True)
    if work.exists():
        command.run(
            ["unshare", "--map-root-user", "--map-auto", "rm", "-rf", "--", str(work)],
            deadline=Deadline("image", 60),
        )


def install(
    suite: str,
    work: Path,
    packages: Sequence[str],
    hooks: Sequence[str],
    *,
    deadline: Deadline,
    cancel: Cancel,
    on_line: OnLine,
) -> None:
    """Install packages into ``tree.tar`` of the work folder, and run the hooks on the tree.

    Some archives list security updates that they no longer hold (bullseye since its support
    ended), so a second try does without.
    """
    scripts = [work / f"hook-{number}" for number in range(len(hooks))]
    for script, text in zip(scripts, hooks, strict=True):
        script.write_text(text)
        script.chmod(0o755)
    argv = [*_own_mounts(deadline), *_mmdebstrap(packages, scripts)]
    words = b""
    for number, sources in enumerate(package_sources(suite, deadline=deadline)):
        if number:
            on_line(f"{suite}: once more, without security updates")
        lines = command.Lines(on_line)
        finished = command.run(
            [*argv, suite, "tree.tar", *sources],
            deadline=deadline,
            cancel=cancel,
            stderr=lines,
            cwd=work,
            env={**os.environ, "TMPDIR": str(work)},
            check=lambda: cache.see_room(work),  # It removes its tree when it fails.
            until_exit=True,
        )
        lines.close()
        if finished.status == 0:
            return
        words = finished.stderr
    raise EnvironmentFailure(
        f"{suite} could not be installed from its packages",
        details=words.decode(errors="replace").strip()[-1500:],
        resolution="Is the package mirror of this host reachable? `build doctor` tries it.",
    )


def _own_mounts(deadline: Deadline) -> list[str]:
    """What gives root's mmdebstrap mounts of its own; nothing where this host does not let it.

    It mounts /proc, /sys and more into the tree. One that is killed leaves them, and a tree with
    the host's /sys in it cannot be removed; as its own they end with it. An ordinary user's has
    its own already.
    """
    apart = ["unshare", "--mount"]
    with contextlib.suppress(HostNotReady):
        if os.geteuid() == 0 and not command.run([*apart, "true"], deadline=deadline).status:
            return apart
    return []


def _mmdebstrap(packages: Sequence[str], hooks: Sequence[Path]) -> list[str]:
    left_out = ("doc", "man", "locale")
    return [
        *("mmdebstrap", f"--mode={'root' if os.geteuid() == 0 else 'unshare'}"),
        *("--variant=minbase", f"--include={','.join(packages)}"),
        *('--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in left_out),
        *(f'--customize-hook={shlex.quote(str(path))} "$1"' for path in hooks),
    ]


def _take_kernel(tree: Path, folder: Path) -> None:
    """Keep kernel and initrd beside the disk: machines start them directly, without a loader."""
    wanted = {"vmlinuz-": "vmlinuz", "initrd.img-": "initrd.img"}
    with tarfile.open(tree) as archive:
        for member in archive:
            path = Path(member.name)
            for prefix, name in wanted.items():
                if path.parent.name == "boot" and path.name.startswith(prefix):
                    content = archive.extractfile(member)
                    assert content is not None
                    with (folder / name).open("wb") as file:
                        shutil.copyfileobj(content, file)
    missing = [name for name in wanted.values() if not (folder / name).exists()]
    if missing:
        raise EnvironmentFailure(f"the installed tree has no {' and no '.join(missing)}")


def _make_disk(work: Path, deadline: Deadline, cancel: Cancel) -> None:
    script = (
        "mkdir tree && tar -xpf tree.tar --numeric-owner -C tree && "
        f"mke2fs -q -t ext4 -O {FEATURES} -E root_owner=0:0 -d tree disk.raw {FILE_SYSTEM_MIB}M"
    )
    # mke2fs reads owners from the tree; fakeroot shows an ordinary user the ones in the tar.
    pretend = [] if os.geteuid() == 0 else ["fakeroot"]
    command.run(
        [*pretend, "sh", "-c", script],
        deadline=deadline,
        cancel=cancel,
        cwd=work,
        env=with_sbin(),
    ).check("the image's disk could not be made")


def with_sbin() -> dict[str, str]:
    """The environment, with the folders where Debian keeps mke2fs."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def hook(name: str) -> str:
    """One of our scripts that are run on a freshly installed tree."""
    return resources.files("build_orchestrator.image").joinpath(name).read_text()
