"""The QEMU command line: a pure function from what a machine is to arguments.

Whatever stands here decides what a saved RAM image fits, so ``DEVICES`` is part of its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from build_orchestrator.model import Image, Size

DEVICES = "2"
"""Raised when a change below makes older snapshots unusable."""

BINARY = "qemu-system-x86_64"
TB_MIB = 256
"""TCG's store of translated code; QEMU's own default is a GiB for each machine."""
# A kernel that stumbled builds nothing that can be trusted: it panics, which ends QEMU at once
# (-no-reboot) instead of leaving a silent machine until its limit.
KERNEL_ARGUMENTS = (
    "root=/dev/vda rw console=ttyS0 net.ifnames=0 quiet systemd.ssh_auto=no TERM=dumb"
    " oops=panic panic=-1"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One QEMU process."""

    name: str
    """The machine's name, which makes the process recognisable."""
    image: Image
    size: Size
    accelerator: str
    """``kvm`` or ``tcg``."""
    limit_s: float
    """``timeout`` kills QEMU after this many seconds, whether we live or not."""
    console: Path
    qmp_descriptor: int = -1
    incoming_descriptor: int = -1
    """An open file with saved RAM to start from; -1 for a start from power-on."""


def command(launch: Launch) -> list[str]:
    """The argument list. QEMU's working folder holds ``overlay.qcow2`` and the folder ``seed``."""
    kvm = launch.accelerator == "kvm"
    accelerator, cpu = ("kvm", "host") if kvm else (f"tcg,thread=multi,tb-size={TB_MIB}", "max")
    argv = [
        *("timeout", "--signal=KILL", f"{launch.limit_s:.3f}"),
        *(BINARY, "-name", launch.name, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-no-reboot", "-machine", "q35", "-accel", accelerator, "-cpu", cpu),
        # A machine is stopped to be saved; without this, what is restored would stand still, too.
        *("-global", "migration.store-global-state=off"),
        *("-smp", str(launch.size.cpus), "-m", str(launch.size.memory_mib)),
        *("-chardev", f"file,id=console,append=on,path={_escaped(launch.console)}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={launch.qmp_descriptor}"),
        *("-mon", "chardev=qmp,mode=control"),
        # The disk dies with the machine, so nothing is ever flushed to the host's disk for it.
        *("-drive", "file=overlay.qcow2,format=qcow2,if=none,id=disk,cache=unsafe,discard=unmap"),
        # In this order: the first is /dev/vda.
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-blockdev", "driver=vvfat,node-name=seed,dir=seed,label=CIDATA,read-only=on"),
        *("-device", "virtio-blk-pci,drive=seed"),
        # Port 0: QEMU asks the kernel for a free port, so that no two machines race for one.
        *("-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
    ]
    if launch.image.kernel:
        argv += ["-kernel", launch.image.kernel, "-append", KERNEL_ARGUMENTS]
        argv += ["-initrd", launch.image.initrd] if launch.image.initrd else []
    if launch.incoming_descriptor >= 0:
        argv += ["-incoming", f"fd:{launch.incoming_descriptor}"]
    return argv


def name_in(argv: tuple[str, ...]) -> str:
    """The name of the machine that a process runs; empty where it is no machine of ours.

    QEMU and the ``timeout`` that guards it both carry the whole line.
    """
    program = Path(argv[0]).name if argv else ""
    if program not in ("timeout", BINARY) or "-name" not in argv:
        return ""
    at = argv.index("-name") + 1
    name = argv[at] if at < len(argv) else ""
    return name if name.startswith("bo-") and Path(argv[at - 2]).name == BINARY else ""


def _escaped(path: Path) -> str:
    """A path as QEMU's option syntax wants it: commas doubled."""
    return str(path).replace(",", ",,")
