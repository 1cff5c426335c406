"""A disk that boots itself: an MBR, GRUB behind it, one partition; no root, no loop device.

GRUB's own files come out of the tree, where box.sh left them in /boot/grub, so that this host
needs no GRUB, and what starts the kernel is of the kernel's own release.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.image.bootstrap import FEATURES, with_sbin

SECTOR = 512
FIRST_SECTOR = 2048
"""Of the partition: at 1 MiB, as every tool has it, with room for GRUB before it."""
BOOT_CODE = 440
"""Bytes of the first sector that are code; a signature and the partition table follow."""
LINUX, ACTIVE = 0x83, 0x80
LABEL = "root"
"""Of the file system; box.sh's kernel line and fstab name it."""


def make(work: Path, disk_mib: int, *, deadline: Deadline, cancel: Cancel) -> Path:
    """Turn ``tree.tar`` of a work folder into ``disk.raw`` beside it.

    Raises:
        EnvironmentFailure: a tool failed, or the tree has no GRUB.
    """
    disk = work / "disk.raw"
    sectors = disk_mib * (1 << 20) // SECTOR
    script = (
        "mkdir tree && tar -xpf tree.tar --numeric-owner -C tree && "
        f"truncate -s {disk_mib}M disk.raw && "
        f"mke2fs -q -F -t ext4 -L {LABEL} -O {FEATURES} "
        f"-E root_owner=0:0,offset={FIRST_SECTOR * SECTOR} -d tree disk.raw "
        f"{(sectors - FIRST_SECTOR) * SECTOR // 1024}k"
    )
    # mke2fs reads owners from the tree; fakeroot shows an ordinary user the ones in the tar.
    pretend = [] if os.geteuid() == 0 else ["fakeroot"]
    command.run(
        [*pretend, "sh", "-c", script], deadline=deadline, cancel=cancel, cwd=work, env=with_sbin()
    ).check("the box's disk could not be made")
    grub = work / "tree/boot/grub"
    try:
        _write_loader(
            disk, sectors, (grub / "boot.img").read_bytes(), (grub / "core.img").read_bytes()
        )
    except FileNotFoundError as error:
        raise EnvironmentFailure(f"the installed tree has no {error.filename}") from error
    return disk


def _write_loader(disk: Path, sectors: int, boot: bytes, core: bytes) -> None:
    """GRUB's first sector into the MBR, the rest of it into the gap before the partition."""
    if len(core) > (FIRST_SECTOR - 1) * SECTOR:
        raise EnvironmentFailure(f"GRUB has {len(core)} bytes and does not fit before the disk")
    with disk.open("r+b") as file:
        file.write(first_sector(boot, sectors))
        file.write(core)


def first_sector(boot: bytes, sectors: int) -> bytes:
    """The MBR: boot code, and a table with one active partition up to the end of the disk."""
    beyond = b"\xfe\xff\xff"  # Cylinder, head, sector: what stands there when they do not reach.
    row = struct.pack(
        "<B3sB3sII", ACTIVE, beyond, LINUX, beyond, FIRST_SECTOR, sectors - FIRST_SECTOR
    )
    # Without a disk signature two boxes are equal as far as their contents are.
    return boot[:BOOT_CODE].ljust(BOOT_CODE, b"\0") + bytes(6) + row + bytes(48) + b"\x55\xaa"
