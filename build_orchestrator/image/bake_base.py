"""What Packer starts from, by provider: the base image, and a key that lets Packer in.

The values of Packer's variables that each provider needs. None of them is a secret.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.image.bootable import FIRST_SECTOR, SECTOR
from build_orchestrator.image.bootstrap import with_sbin
from build_orchestrator.image.known_key import known_key, wants_known_key
from build_orchestrator.machine.contract import Provider
from build_orchestrator.machine.qemu.accelerator import choose
from build_orchestrator.machine.qemu.identity import Keys, host_name_of, make_keys, write_seed
from build_orchestrator.machine.vagrant.boxes import place_of
from build_orchestrator.model import Build, Image

AUTHORIZED = "/root/.ssh/authorized_keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One bake on this host."""

    build: Build
    base: Image
    folder: Path
    """The machine's own."""
    name: str
    """The machine's."""
    provider: Provider
    """The target's."""
    run_uuid: str
    run_id: str
    attempt: int
    limit_s: float
    deadline: Deadline
    cancel: Cancel


def variables_of(place: Place) -> Mapping[str, str]:
    """The values of Packer's variables for this place's provider.

    Raises:
        EnvironmentFailure, HostNotReady: the base image cannot be used.
    """
    prepare: dict[str, Callable[[Place], dict[str, str]]] = {
        "qemu": _qemu,
        "libvirt": _libvirt,
        "virtualbox": _virtualbox,
        "aws": _aws,
    }
    size, flavour = place.build.target.size, place.build.flavour
    assert flavour is not None
    return {
        "output": str(place.folder / "output"),
        "name": place.name,
        "image_name": _image_name(place, flavour.name),
        "cpus": str(size.cpus),
        "memory_mib": str(size.memory_mib),
        "boot_s": f"{place.build.target.deadlines.boot_s:.0f}",
        **prepare[place.build.target.provider](place),
    }


def _image_name(place: Place, flavour: str) -> str:
    """What AWS calls the image: no account may have two of a name, and a failed try may have left
    one."""
    return f"{place.build.target.distro.name}-{flavour}-{place.run_id}-{place.attempt}"


def _qemu(place: Place) -> dict[str, str]:
    """A disk whose machine takes its identity from a seed disk."""
    keys = make_keys(place.folder, deadline=place.deadline)
    seed = place.folder / "seed"
    write_seed(seed, keys, host_name=host_name_of(place.name))
    return {
        "base_disk": place.base.disk,
        "base_checksum": f"sha256:{place.base.sha256}",
        "kernel": place.base.kernel,
        "initrd": place.base.initrd,
        "seed": str(seed),
        "disk_mib": _disk_mib(Path(place.base.disk), place),
        "ssh_private_key_file": str(keys.user_private),
        **_accelerated(place),
    }


def _libvirt(place: Place) -> dict[str, str]:
    """A box's disk. One that was made here lets root in with a key of ours, any other one Vagrant's
    user with the key that everybody knows."""
    disks = sorted(_box(place).glob("*.img"))
    if len(disks) != 1:
        raise EnvironmentFailure(
            f"the box {place.base.disk} has {len(disks)} disks, and only one can be baked"
        )
    known = {
        "base_disk": str(disks[0]),
        "base_checksum": "none",
        "disk_mib": _disk_mib(disks[0], place),
        **_accelerated(place),
    }
    if wants_known_key(place.build.target):
        return {**known, **_with_known_key(place)}
    keys = make_keys(place.folder, deadline=place.deadline)
    return {
        **known,
        "base_disk": str(_opened(disks[0], keys, place)),
        "ssh_private_key_file": str(keys.user_private),
    }


def _virtualbox(place: Place) -> dict[str, str]:
    return {"base_ovf": str(_box(place) / "box.ovf"), **_with_known_key(place)}


def _aws(place: Place) -> dict[str, str]:
    """The key pair and the group are the run's, and end with it, whatever becomes of Packer."""
    from build_orchestrator.machine.ec2 import Ec2Provider
    from build_orchestrator.machine.ec2.launch import Purpose

    assert isinstance(place.provider, Ec2Provider)
    options = place.build.target.options
    target = place.build.name
    shared, key = place.provider.share(
        Purpose(run_uuid=place.run_uuid, target=target, limit_s=place.limit_s),
        place.build.target.distro,
        options,
        place.folder,
        deadline=place.deadline,
        cancel=place.cancel,
    )
    return {
        "source_ami": place.base.disk,
        "region": options["region"],
        "aws_endpoint": options.get("endpoint", ""),
        "ssh_keypair_name": shared.key_name,
        "ssh_private_key_file": str(key),
        "security_group_id": shared.group_id,
        "limit_s": f"{place.limit_s:.0f}",
        "run_uuid": place.run_uuid,
        "target": target,
        "expires_at": f"{time.time() + place.limit_s:.0f}",
    }


def _disk_mib(disk: Path, place: Place) -> str:
    """How large the machine's disk is: as a build's, and never smaller than the base image's."""
    found = command.run(
        ["qemu-img", "info", "--output=json", str(disk)],
        deadline=place.deadline,
        cancel=place.cancel,
    ).check(f"{disk} could not be looked at")
    base_mib = -(-json.loads(found.stdout)["virtual-size"] >> 20)
    return str(max(base_mib, place.build.target.size.disk_mib))


def _accelerated(place: Place) -> dict[str, str]:
    return {"accelerator": choose(place.base.kernel, cancel=place.cancel)}


def _with_known_key(place: Place) -> dict[str, str]:
    return {"ssh_private_key_file": str(known_key(place.build.target))}


def _box(place: Place) -> Path:
    found = place_of(place.base.disk, place.base.version, place.build.target.provider)
    if found is None:
        raise EnvironmentFailure(
            f"the box {place.base.source} is not there any more",
            resolution="Try again: it is fetched anew.",
        )
    return found


def _opened(disk: Path, keys: Keys, place: Place) -> Path:
    """A copy of a box's disk whose root lets our key in. Nothing is mounted, and nobody is root."""
    raw, opened = place.folder / "box.raw", place.folder / "box.qcow2"
    public, words = place.folder / "authorized_keys", place.folder / "debugfs"
    public.write_text(f"{keys.user_public}\n")
    lines = [
        "mkdir /root/.ssh",
        "set_inode_field /root/.ssh mode 040700",
        f"write {public} {AUTHORIZED}",
        f"set_inode_field {AUTHORIZED} mode 0100600",
        *(f"set_inode_field {AUTHORIZED} {each} 0" for each in ("uid", "gid")),
    ]
    words.write_text("\n".join(lines) + "\n")
    partition = f"{raw}?offset={FIRST_SECTOR * SECTOR}"
    for argv in (
        ["qemu-img", "convert", "-O", "raw", str(disk), str(raw)],
        ["debugfs", "-w", "-f", str(words), partition],
        ["qemu-img", "convert", "-O", "qcow2", str(raw), str(opened)],
    ):
        command.run(argv, deadline=place.deadline, cancel=place.cancel, env=with_sbin()).check(
            "the box's disk could not be opened for Packer"
        )
    with contextlib.suppress(FileNotFoundError):
        raw.unlink()
    return opened
