"""One QEMU process: started in its machine's folder, found again by its name, killed for sure."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import MachineLost
from build_orchestrator.machine import processes
from build_orchestrator.machine.qemu.launch import Launch, name_in
from build_orchestrator.machine.qemu.launch import command as command_line
from build_orchestrator.machine.qemu.qmp import Qmp, socket_pair

LOG = "qemu.log"
LAST_WORDS_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Running:
    """QEMU as its starter holds it."""

    child: command.Child
    qmp: Qmp
    port: int
    """Of 127.0.0.1; leads to the machine's port 22."""


def make_overlay(folder: Path, *, backing: str, size_mib: int, deadline: Deadline) -> None:
    """Make a fresh disk that starts as ``backing`` and is at least ``size_mib`` large.

    A smaller one would end in the middle of the file system that its image holds.
    """
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing]
    size_bytes = max(size_mib << 20, _virtual_bytes(Path(backing)))
    argv += ["overlay.qcow2", str(size_bytes)]
    command.run(argv, deadline=deadline, cwd=folder).check("the machine's disk could not be made")


def _virtual_bytes(disk: Path) -> int:
    """How large a qcow2 disk is for its machine: bytes 24 to 31 of the file say so."""
    with disk.open("rb") as file:
        return int.from_bytes(file.read(32)[24:])


def start(
    plan: Launch, folder: Path, *, incoming: Path | None = None, deadline: Deadline
) -> Running:
    """Start QEMU and talk to it. Nothing of it is left when that fails.

    Raises:
        MachineLost: it ended at once; the details hold its own words.
    """
    ours, theirs = socket_pair()
    descriptors = [theirs.fileno()]
    if incoming is not None:
        descriptors.append(os.open(incoming, os.O_RDONLY))
    plan = dataclasses.replace(
        plan,
        qmp_descriptor=descriptors[0],
        incoming_descriptor=descriptors[1] if incoming is not None else -1,
    )
    with (folder / LOG).open("ab") as log:
        try:
            child = command.spawn(
                command_line(plan), cwd=folder, stderr=log.fileno(), pass_fds=descriptors
            )
        finally:
            theirs.close()
            if incoming is not None:
                os.close(descriptors[1])
    try:
        qmp = Qmp(ours, deadline=deadline)
        return Running(child, qmp, qmp.forwarded_port(deadline=deadline))
    except BaseException as error:
        command.kill_group(child)
        ours.close()
        if isinstance(error, MachineLost):
            raise MachineLost("QEMU ended at once", details=last_words(folder)) from error
        raise


def last_words(folder: Path) -> str:
    """The end of what QEMU wrote on its standard error."""
    try:
        return (folder / LOG).read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace").strip()
    except OSError:
        return "(its log is gone)"


def name_of(pid: int) -> str:
    """The name of the machine that a process runs, in that machine's folder; else nothing."""
    name = name_in(processes.arguments(pid))
    return name if name and processes.folder_of(pid, name) else ""


def kill(name: str, *, deadline: Deadline) -> None:
    """Kill the machine with this name, from any process, however often.

    Raises:
        MachineLeaked: it would not die.
    """
    processes.kill(lambda pid: name_of(pid) == name, deadline=deadline)


def exists(name: str) -> bool:
    """Whether a machine with this name lives on this host, whoever started it."""
    return any(processes.find(lambda pid: name_of(pid) == name))
