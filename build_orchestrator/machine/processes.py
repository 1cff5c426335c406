"""Machines that are processes of this host: found by what they carry, never by a bare pid.

A pid may long belong to a stranger. A process is ours when its own arguments or environment say
so, read again after a pidfd has pinned it; only then is it signalled, through the pidfd.
Linux only.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import MachineLeaked

PROC = Path("/proc")

Ours = Callable[[int], bool]
"""Says whether a process belongs to the machine in question, from what the process carries."""


def arguments(pid: int) -> tuple[str, ...]:
    """The argument list of a process; empty where it is gone, a zombie, or not ours to see."""
    return _strings(pid, "cmdline")


def environment(pid: int) -> tuple[str, ...]:
    """The ``NAME=value`` lines that a process was started with; empty as for ``arguments``."""
    return _strings(pid, "environ")


def _strings(pid: int, file: str) -> tuple[str, ...]:
    try:
        # Every process of the host is read for every machine: a Path costs more than the reading.
        with open(f"{PROC}/{pid}/{file}", "rb", buffering=0) as shown:  # noqa: PTH123
            raw = shown.readall()
    except OSError:
        return ()
    return tuple(os.fsdecode(raw).split("\0")[:-1])


def folder_of(pid: int, name: str) -> str:
    """The folder of the machine with this name, if the process works in it; else nothing.

    A machine's processes work in a folder that is called like the machine (or below it). One that
    carries the name and works elsewhere was started by somebody else: it is not ours to touch.

    Where the process sees other file systems than we do (it runs in a container), the path leads
    through its own root: beside the folder lies the heartbeat that says whether its run lives.
    """
    with contextlib.suppress(OSError):
        process = PROC / str(pid)
        here = Path(str((process / "cwd").readlink()).removesuffix(" (deleted)"))
        elsewhere = (process / "ns/mnt").readlink() != (PROC / "self/ns/mnt").readlink()
        for folder in (here, *here.parents):
            if folder.name == name:
                return f"{process}/root{folder}" if elsewhere else str(folder)
    return ""


def find(ours: Ours) -> Iterator[int]:
    """The pid of every living process that is ours; none where the system does not show them."""
    for name in os.listdir(PROC) if PROC.is_dir() else ():  # noqa: PTH208
        if name.isdigit() and ours(int(name)):
            yield int(name)


def kill(ours: Ours, *, deadline: Deadline) -> None:
    """Kill every process that is ours and see each of them end.

    Raises:
        MachineLeaked: one of them would not die, or could not be signalled.
    """
    while pids := list(find(ours)):  # Until none is found: a dying one may have forked meanwhile.
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                _kill_one(pid, ours, deadline)


def _kill_one(pid: int, ours: Ours, deadline: Deadline) -> None:
    descriptor = os.pidfd_open(pid)
    try:
        if not ours(pid):  # Somebody else's by now.
            return
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except PermissionError as error:
            raise MachineLeaked(
                f"process {pid} belongs to a machine of ours, but may not be signalled",
                resolution="Run `build sweep` as the user who started it.",
            ) from error
        readable, _, _ = select.select([descriptor], [], [], deadline.remaining_s)
        if not readable:
            raise MachineLeaked(
                f"process {pid} did not die of SIGKILL within {deadline.limit_s:g} s"
            )
    finally:
        os.close(descriptor)


def remove_folder(folder: Path, name: str) -> None:
    """Remove a machine's folder: overlay, keys, sockets. A folder that is gone is fine.

    Raises:
        MachineLeaked: something of it could not be removed, or it is not called like the machine.
    """
    if folder.name != name:
        raise MachineLeaked(f"{folder} is not the folder of {name}, and stays")
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise MachineLeaked(
            f"the machine's folder could not be removed: {error}",
            resolution=f"Look at {folder}, then run `build sweep`.",
        ) from error
