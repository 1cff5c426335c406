"""KVM or TCG: decided by a short probe boot, never by looking at ``/dev/kvm``.

On some hosts (nested virtualization) ``/dev/kvm`` opens, machines can be made, and a stock kernel
hangs all the same. So a real kernel is started for a few seconds; only its first words on the
console prove that KVM works. The verdict is kept for boot id, kernel and QEMU.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
from pathlib import Path

from build_orchestrator.command import run
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import DeadlineExceeded, HostNotReady
from build_orchestrator.locks import cache_home, locked, private_folder
from build_orchestrator.machine.qemu.launch import BINARY

PROBE_S = 8.0
DEVICE = Path("/dev/kvm")
FIRST_WORDS = b"Linux version"


def qemu_id() -> str:
    """What identifies the installed QEMU: path, size and time of its binary.

    Raises:
        HostNotReady: there is none.
    """
    path = shutil.which(BINARY)
    if path is None:
        raise HostNotReady(
            f"{BINARY} is not installed",
            resolution="`build doctor` says how to get it.",
        )
    status = Path(path).stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def choose(kernel: str, *, cancel: Cancel) -> str:
    """Return ``kvm`` or ``tcg`` for machines of this host.

    Args:
        kernel: path of a kernel to probe with; without one only a kept verdict can say ``kvm``.
    """
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return "tcg"
    place = _verdict_file()
    private_folder(place.parent)
    with locked(place.with_suffix(".lock"), deadline=Deadline("boot", 60), cancel=cancel):
        if place.exists():
            return place.read_text().strip()
        if not kernel:
            return "tcg"
        verdict = "kvm" if _kernel_speaks(kernel, cancel) else "tcg"
        place.write_text(verdict + "\n")
        return verdict


def known_verdict() -> str:
    """The kept verdict of this boot, kernel and QEMU; empty where there is none, or no QEMU."""
    with contextlib.suppress(HostNotReady, OSError):
        return _verdict_file().read_text().strip()
    return ""


def _verdict_file() -> Path:
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot_id = "unknown"
    text = f"{boot_id}\n{platform.release()}\n{qemu_id()}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache_home() / "kvm" / digest


class _Spoke(Exception):
    """The kernel said its first words; no need to wait for more."""


def _kernel_speaks(kernel: str, cancel: Cancel) -> bool:
    heard = bytearray()

    def listen(chunk: bytes) -> None:
        heard.extend(chunk)
        if FIRST_WORDS in heard:
            raise _Spoke

    argv = [
        *("timeout", "--signal=KILL", f"{PROBE_S + 2:.0f}"),
        *(BINARY, "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", kernel, "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"),
    ]
    try:
        run(argv, deadline=Deadline("boot", PROBE_S), cancel=cancel, stdout=listen)
    except _Spoke:
        return True
    except (DeadlineExceeded, HostNotReady):
        return False
    return False
