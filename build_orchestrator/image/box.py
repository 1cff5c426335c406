"""Vagrant boxes made on this host, from the same packages as its images.

A box is a bootstrapped system that starts from its own disk and has what Vagrant expects of it:
the user ``vagrant`` with the key that everybody knows, sudo, rsync, and an address by DHCP. The
disk is made once for each suite; each provider's box is that disk in the provider's own form.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import time
import uuid
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from build_orchestrator import cache, command
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.image import bootable, bootstrap
from build_orchestrator.image.bootstrap import OnLine

KIND = "boxes"
DISKS = "box-disks"
RECIPE = "1"
"""Raised when a change in this file or in bootable.py changes what a box is."""

PROVIDERS = ("libvirt", "virtualbox")
PACKAGES = (
    *bootstrap.PACKAGES,
    *("sudo", "rsync", "ifupdown", "isc-dhcp-client", "fdisk", "grub-pc-bin"),
)
HOOKS = (bootstrap.HOOK, "box.sh")
DISK_MIB = bootstrap.FILE_SYSTEM_MIB
MTIME = 1704067200
"""Of every file in a box: the time it was made says nothing."""

LIBVIRT_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.synced_folder ".", "/vagrant", type: "rsync"
end
"""
# A small kernel has no driver for VirtualBox's usual network card, and no guest additions.
VIRTUALBOX_VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.base_mac = "080027B01DB0"
  config.vm.synced_folder ".", "/vagrant", type: "rsync"
  config.vm.provider :virtualbox do |vb|
    vb.check_guest_additions = false
    vb.customize ["modifyvm", :id, "--nictype1", "virtio"]
  end
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A file that ``vagrant box add`` takes."""

    provider: str
    suite: str
    path: Path
    sha256: str
    size_bytes: int


def key_of(suite: str, provider: str) -> str:
    """Everything of ours that decides what the box holds; the archive's state is not in it."""
    template = _template() if provider == "virtualbox" else ""
    vagrantfiles = (LIBVIRT_VAGRANTFILE, VIRTUALBOX_VAGRANTFILE)
    return _digest(_disk_key(suite), provider, template, *vagrantfiles)


def _disk_key(suite: str) -> str:
    return _digest(RECIPE, suite, *PACKAGES, str(DISK_MIB), bootstrap.FEATURES, *_hooks())


def _hooks() -> tuple[str, ...]:
    return tuple(bootstrap.hook(name) for name in HOOKS)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def make_box(
    suite: str, provider: str, *, deadline: Deadline, cancel: Cancel, on_line: OnLine
) -> Box:
    """Return a provider's box of a suite, made where the cache has none.

    Raises:
        EnvironmentFailure: its packages or its disk could not be made.
        HostNotReady: a tool is missing.
    """

    def fill(folder: Path) -> None:
        disk = _disk(suite, deadline, cancel, on_line)
        on_line(f"packing the box for {provider}")
        pack = _pack_libvirt if provider == "libvirt" else _pack_virtualbox
        pack(disk, suite, folder, deadline, cancel)
        with (folder / "package.box").open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts = {"sha256": digest, "suite": suite, "provider": provider, "recipe": RECIPE}
        (folder / "box.json").write_text(json.dumps(facts, indent=2) + "\n")

    folder = cache.entry(KIND, key_of(suite, provider), fill, deadline=deadline, cancel=cancel)
    return _box(suite, provider, folder)


def made_box(suite: str, provider: str) -> Box | None:
    """A provider's box of a suite, where the cache has it."""
    folder = cache.place_of(KIND, key_of(suite, provider))
    return _box(suite, provider, folder) if folder else None


def _box(suite: str, provider: str, folder: Path) -> Box:
    path = folder / "package.box"
    return Box(
        provider=provider,
        suite=suite,
        path=path,
        sha256=json.loads((folder / "box.json").read_text())["sha256"],
        size_bytes=path.stat().st_size,
    )


def catalogue(box: Box, path: Path, name: str, version: str) -> str:
    """What ``vagrant box add FILE.json`` reads: it gives the box at a path a name and version."""
    found = {
        "name": box.provider,
        "url": path.absolute().as_uri(),
        "checksum_type": "sha256",
        "checksum": box.sha256,
    }
    versions = [{"version": version, "providers": [found]}]
    return json.dumps({"name": name, "versions": versions}, indent=2) + "\n"


def _disk(suite: str, deadline: Deadline, cancel: Cancel, on_line: OnLine) -> Path:
    """The disk that all boxes of a suite have, as qcow2."""

    def fill(folder: Path) -> None:
        with bootstrap.work_folder(folder) as work:
            bootstrap.install(
                suite, work, PACKAGES, _hooks(), deadline=deadline, cancel=cancel, on_line=on_line
            )
            on_line("making the disk")
            raw = bootable.make(work, DISK_MIB, deadline=deadline, cancel=cancel)
            _convert(raw, folder / "disk.qcow2", ("-c", "-O", "qcow2"), deadline, cancel)
            shutil.copy(work / "tree/vmlinuz", folder)  # To see whether KVM works.
        facts = {"suite": suite, "made_at": int(time.time()), "recipe": RECIPE}
        (folder / "disk.json").write_text(json.dumps(facts, indent=2) + "\n")

    return cache.entry(DISKS, _disk_key(suite), fill, deadline=deadline, cancel=cancel) / (
        "disk.qcow2"
    )


def _convert(
    source: Path, place: Path, options: tuple[str, ...], deadline: Deadline, cancel: Cancel
) -> None:
    command.run(
        # Out of order and with more coroutines: all cores compress.
        ["qemu-img", "convert", "-W", "-m", "8", *options, str(source), str(place)],
        deadline=deadline,
        cancel=cancel,
    ).check("the box's disk could not be converted")


def _pack_libvirt(disk: Path, suite: str, folder: Path, deadline: Deadline, cancel: Cancel) -> None:
    del suite, deadline, cancel  # The disk is what it should be already.
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_MIB // 1024}
    texts = {"metadata.json": _json(metadata), "Vagrantfile": LIBVIRT_VAGRANTFILE}
    _write_tar(folder / "package.box", texts, {"box.img": disk})


def _pack_virtualbox(
    disk: Path, suite: str, folder: Path, deadline: Deadline, cancel: Cancel
) -> None:
    vmdk = folder / "box-disk001.vmdk"
    options = ("-O", "vmdk", "-o", "subformat=streamOptimized")
    command.run(
        ["qemu-img", "convert", *options, str(disk), str(vmdk)], deadline=deadline, cancel=cancel
    ).check("the box's disk could not be converted")
    texts = {
        "metadata.json": _json({"provider": "virtualbox"}),
        "Vagrantfile": VIRTUALBOX_VAGRANTFILE,
        "box.ovf": _ovf(suite, vmdk.stat().st_size),
    }
    _write_tar(folder / "package.box", texts, {vmdk.name: vmdk})
    vmdk.unlink()


def _ovf(suite: str, vmdk_bytes: int) -> str:
    """The description of a machine with one IDE disk; the same suite has the same numbers."""
    return (
        _template()
        .replace("@NAME@", f"debian-{suite}")
        .replace("@DISK_BYTES@", str(DISK_MIB << 20))
        .replace("@FILE_BYTES@", str(vmdk_bytes))
        .replace("@DISK_UUID@", str(uuid.uuid5(uuid.NAMESPACE_URL, f"disk/{suite}")))
    )


def _template() -> str:
    return resources.files("build_orchestrator.image").joinpath("box.ovf").read_text()


def _json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _write_tar(place: Path, texts: dict[str, str], files: dict[str, Path]) -> None:
    """A plain tar: what is large in it is compressed already."""
    with tarfile.open(place, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in texts.items():
            archive.addfile(_member(name, len(text.encode())), io.BytesIO(text.encode()))
        for name, path in files.items():
            with path.open("rb") as file:
                archive.addfile(_member(name, path.stat().st_size), file)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, MTIME, 0o644
    return member
