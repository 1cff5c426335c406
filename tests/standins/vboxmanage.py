"""A stand-in for VirtualBox's command line: the real Vagrant drives it, and QEMU runs the machines.

It speaks what Vagrant's VirtualBox provider calls from ``up`` to ``destroy``, linked clones
included, and refuses everything else. A machine is a QEMU process with the forwarded ports of its
first network adapter, the disk as IDE, and the network card that was asked for. What it shows: the
calls that Vagrant makes for our Vagrantfile and box are accepted in that order, and what Vagrant
does over ssh works. What it does not show: how VirtualBox itself answers, times, or fails.

With ``$VBOX_HOLDS``, the name of a command, that one never ends when it has done its work; with
``half a clonevm``, a clone has its folder, and VirtualBox answers others, but never lists it.
With ``$VBOX_WINDOWS``, a drive C, its machines are those of ``windows.py`` instead: they look like
Windows, and have no disk.

Everything is in ``$VBOX_USER_HOME``: ``calls.log``, ``<uuid>.json`` for each machine, and
``machines/<name>/`` with its disk and console. By hand::

    PATH=$PWD/tests/standins:$PATH VBOX_USER_HOME=/tmp/vbox vagrant up --provider virtualbox
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

VERSION = "6.1.50r161033"
HOME = Path(os.environ.get("VBOX_USER_HOME") or Path.home() / ".config/VirtualBox")
MACHINES = HOME / "machines"
QEMU = "qemu-system-x86_64"
CARDS = {"virtio": "virtio-net-pci", "82540EM": "e1000", "Am79C973": "pcnet"}
OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
PROCESSOR, MEMORY = "3", "4"
MAX_ADAPTERS = 8
NOT_FOUND = "VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)"
IGNORED = frozenset({"rtcuseutc", "natdnsproxy1", "natdnshostresolver1", "vram", "audio"})
"""Settings of ``modifyvm`` that say nothing to QEMU."""


class Refused(Exception):
    """What VirtualBox would print after ``VBoxManage: error:``."""


class Half(Exception):
    """What was begun goes on for ever, and VirtualBox answers others meanwhile."""


@dataclass
class Machine:
    """A registered machine; ``<uuid>.json``."""

    uuid: str
    name: str
    disk: str
    memory: str = "1024"
    cpus: str = "1"
    mac: str = ""
    card: str = "82540EM"
    description: str = ""
    adapters: dict[str, str] = field(default_factory=lambda: {"1": "nat"})
    forwarded: dict[str, str] = field(default_factory=dict)
    """Rule's name -> the rest of it: ``tcp,127.0.0.1,2222,,22``."""
    snapshots: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.disk).parent

    @property
    def pid(self) -> int:
        """Of its QEMU; 0 where none runs."""
        try:
            pid = int((self.folder / "pid").read_text())
            line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        return pid if self.uuid.encode() in line else 0

    @property
    def state(self) -> str:
        return "running" if self.pid else "poweroff"

    def save(self) -> None:
        (HOME / f"{self.uuid}.json").write_text(json.dumps(asdict(self), indent=2))


def machines() -> list[Machine]:
    return [Machine(**json.loads(path.read_text())) for path in sorted(HOME.glob("*.json"))]


def find(name: str) -> Machine:
    """The machine of this uuid or name."""
    for machine in machines():
        if name in (machine.uuid, machine.name):
            return machine
    raise Refused(f"Could not find a registered machine named '{name}'\nDetails: code {NOT_FOUND}")


def pairs(arguments: list[str]) -> list[tuple[str, str]]:
    """Options with one value each: ``--name N --cpus 2``."""
    if len(arguments) % 2 or not all(name.startswith("--") for name in arguments[::2]):
        raise Refused(f"the stand-in does not understand {shlex.join(arguments)}")
    return list(zip((name[2:] for name in arguments[::2]), arguments[1::2], strict=True))


def convert(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True)
    run(["qemu-img", "convert", "-O", "qcow2", str(source), str(place)])


def run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(f"{shlex.join(argv)}: {done.stderr.strip()}")


def free_mac() -> str:
    return f"080027{uuid.uuid4().hex[:6].upper()}"


# --- what can be called ---------------------------------------------------------------------------


def list_(what: str) -> None:
    if what == "vms":
        for machine in machines():
            print(f'"{machine.name}" {{{machine.uuid}}}')
    elif what == "runningvms":
        for machine in filter(lambda each: each.pid, machines()):
            print(f'"{machine.name}" {{{machine.uuid}}}')
    elif what == "systemproperties":
        print(f"Default machine folder:          {MACHINES}")
    elif what not in ("hostonlyifs", "bridgedifs", "dhcpservers"):  # of which there are none
        raise Refused(f"the stand-in has no list of {what}")


def import_(*arguments: str) -> None:
    dry = arguments[0] == "-n"
    ovf = Path(arguments[1 if dry else 0])
    root = ET.parse(ovf).getroot()
    system, file = root.find(f"{OVF}VirtualSystem"), root.find(f".//{OVF}File")
    if system is None or file is None:
        raise Refused(f"{ovf} describes no machine with a disk")
    suggested, image = system.get(f"{OVF}id", ""), file.get(f"{OVF}href", "")
    items = {item.findtext(f"{RASD}ResourceType"): item for item in root.iter(f"{OVF}Item")}
    cpus, memory = (
        items[kind].findtext(f"{RASD}VirtualQuantity", "") for kind in (PROCESSOR, MEMORY)
    )
    print(f"Interpreting {ovf}...\nOK.\nVirtual system 0:")
    print(f' 1: Suggested VM name "{suggested}"')
    print(f' 3: Suggested VM settings file name "{MACHINES}/{suggested}/{suggested}.vbox"')
    print(f" 5: Number of CPUs: {cpus}\n 6: Guest memory: {memory} MB")
    disk = MACHINES / suggested / image
    print(f" 9: Hard disk image: source image={image}, target path={disk}, controller=8;channel=0")
    if dry:
        return
    options = dict(pairs(list(arguments[1:])))
    place = Path(options["disk"]).with_suffix(".qcow2")
    convert(ovf.parent / image, place)
    Machine(str(uuid.uuid4()), options["vmname"], str(place), memory, cpus, free_mac()).save()
    print("0%...10%...20%...30%...40%...50%...60%...70%...80%...90%...100%", file=sys.stderr)
    print("Successfully imported the appliance.")


def showvminfo(name: str, form: str = "") -> None:
    del form  # Vagrant asks without it only to see whether the machine exists.
    machine = find(name)
    print(f'name="{machine.name}"\nUUID="{machine.uuid}"')
    print(f'CfgFile="{machine.folder / machine.name}.vbox"')
    print(f'memory={machine.memory}\ncpus={machine.cpus}\nVMState="{machine.state}"')
    print(f'description="{machine.description}"')
    print(f'macaddress1="{machine.mac}"\nnictype1="{machine.card}"')
    for slot in map(str, range(1, MAX_ADAPTERS + 1)):
        print(f'nic{slot}="{machine.adapters.get(slot, "none")}"')
        if slot == "1":
            for number, (rule, rest) in enumerate(machine.forwarded.items()):
                print(f'Forwarding({number})="{rule},{rest}"')


def modifyvm(name: str, *arguments: str) -> None:
    machine = find(name)
    words = list(arguments)
    while words:
        option, value = words.pop(0).removeprefix("--"), words.pop(0)
        if option == "name":
            if any(other.name == value for other in machines()):
                raise Refused(f"Could not rename '{machine.name}': VERR_ALREADY_EXISTS")
            machine.name = value
        elif option in ("memory", "cpus", "description"):
            setattr(machine, option, value)
        elif option == "macaddress1":
            machine.mac = free_mac() if value == "auto" else value
        elif option == "nictype1":
            if value not in CARDS:
                raise Refused(f"Invalid NIC type '{value}'")
            machine.card = value
        elif option == "natpf1" and value == "delete":
            machine.forwarded.pop(words.pop(0))
        elif option == "natpf1":
            rule, _, rest = value.partition(",")
            machine.forwarded[rule] = rest
        elif option.startswith("nic") and option[3:].isdigit() and value in ("nat", "none"):
            machine.adapters[option[3:]] = value
        elif option not in IGNORED:
            raise Refused(f"the stand-in has no --{option} {value}")
    machine.save()


def startvm(name: str, *arguments: str) -> None:
    if list(arguments) != ["--type", "headless"]:
        raise Refused(f"the stand-in does not start a machine with {shlex.join(arguments)}")
    machine = find(name)
    if machine.pid:
        raise Refused(f"The machine '{machine.name}' is already locked by a session")
    if prefix := os.environ.get("VBOX_WINDOWS"):
        start_windows(machine, Path(prefix))
    else:
        start_qemu(machine)
    print(f'Waiting for VM "{machine.name}" to power on...')
    print(f'VM "{machine.name}" has been successfully started.')


def start_windows(machine: Machine, prefix: Path) -> None:
    sys.path.append(str(Path(__file__).parents[2]))
    from tests.standins import windows
    from tests.standins.namespaces import isolated

    _, address, port, *_ = machine.forwarded["ssh"].split(",")
    own = windows.copy_prefix(prefix, machine.folder / "wine")
    child = subprocess.Popen(
        isolated(windows.start_machine(own, machine.folder, f"{address}:{port}"), machine.uuid),
        cwd=machine.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    (machine.folder / "pid").write_text(str(child.pid))


def start_qemu(machine: Machine) -> None:
    forwards = "".join(
        f",hostfwd={protocol}:{address or '127.0.0.1'}:{port}-{inside}:{inside_port}"
        for protocol, address, port, inside, inside_port in (
            rest.split(",") for rest in machine.forwarded.values()
        )
    )
    mac = ":".join(machine.mac[at : at + 2] for at in range(0, 12, 2))
    # The machine's name is no name of the process: by that, machines of ours are known.
    argv = [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-uuid", machine.uuid),
        *("-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max"),
        *("-smp", machine.cpus, "-m", machine.memory, "-device", "virtio-rng-pci"),
        *("-drive", f"file={machine.disk},format=qcow2,if=ide,cache=unsafe"),
        *("-netdev", f"user,id=net{forwards}"),
        *("-device", f"{CARDS[machine.card]},netdev=net,mac={mac}"),
        *("-serial", f"file:{machine.folder / 'console.txt'}"),
        *("-daemonize", "-pidfile", str(machine.folder / "pid")),
    ]
    run(argv)


def controlvm(name: str, action: str) -> None:
    machine = find(name)
    if action != "poweroff":
        raise Refused(f"the stand-in cannot {action} a machine")
    pid = machine.pid
    if not pid:
        raise Refused(f"Machine '{machine.name}' is not currently running")
    os.kill(pid, signal.SIGKILL)
    while machine.pid:
        time.sleep(0.05)


def unregistervm(name: str, *arguments: str) -> None:
    machine = find(name)
    if machine.pid:
        raise Refused(f"Cannot unregister the machine '{machine.name}' while it is locked")
    (HOME / f"{machine.uuid}.json").unlink()
    if "--delete" in arguments:
        shutil.rmtree(machine.folder)


def snapshot(name: str, verb: str, *arguments: str) -> None:
    machine = find(name)
    if verb == "take":
        machine.snapshots.append(arguments[0])
        machine.save()
    elif verb == "list" and machine.snapshots:
        for number, each in enumerate(machine.snapshots):
            print(f'SnapshotName{f"-{number}" if number else ""}="{each}"')
    elif verb == "list":
        raise Refused("This machine does not have any snapshots")
    else:
        raise Refused(f"the stand-in cannot {verb} a snapshot")


def clonevm(name: str, *arguments: str) -> None:
    master = find(name)
    options = dict(pairs([word for word in arguments if word != "--register"]))
    if options.get("options") != "link" or options.get("snapshot") not in master.snapshots:
        raise Refused("the stand-in makes linked clones of a snapshot only")
    disk = MACHINES / options["name"] / "disk.qcow2"
    disk.parent.mkdir(parents=True)
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", master.disk, str(disk)])
    if os.environ.get("VBOX_HOLDS") == "half a clonevm":
        raise Half
    Machine(
        str(uuid.uuid4()), options["name"], str(disk), master.memory, master.cpus, free_mac()
    ).save()


def guestproperty(verb: str, name: str, what: str) -> None:
    del verb, name, what  # There are no guest additions.
    print("No value set!")


COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_,
    "import": import_,
    "showvminfo": showvminfo,
    "modifyvm": modifyvm,
    "startvm": startvm,
    "controlvm": controlvm,
    "unregistervm": unregistervm,
    "snapshot": snapshot,
    "clonevm": clonevm,
    "guestproperty": guestproperty,
}


def main(arguments: list[str]) -> int:
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "calls.log").open("a") as log:
        log.write(shlex.join(arguments) + "\n")
        log.flush()
        if arguments == ["--version"]:
            print(VERSION)
            return 0
        # One at a time, as VirtualBox's own service does it.
        fcntl.flock(log, fcntl.LOCK_EX)
        try:
            verb, *rest = arguments
            if verb not in COMMANDS:
                raise Refused(f"the stand-in has no {verb}")
            COMMANDS[verb](*rest)
            if verb == os.environ.get("VBOX_HOLDS") and rest[0] != "-n":
                signal.pause()
        except Half:
            fcntl.flock(log, fcntl.LOCK_UN)
            signal.pause()
        except (Refused, TypeError, ValueError) as error:
            print(f"VBoxManage: error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
