"""VirtualBox's tool, ``VBoxManage``: machines by name, and the boxes that they are clones of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.locks import locked, state_home
from build_orchestrator.machine import processes

ASK_S = 60.0
LISTED = re.compile(r'^"(?P<name>.*)" \{(?P<uuid>[0-9a-f-]{36})\}$', re.MULTILINE)
OURS = re.compile(r"bo-[0-9a-f]{32}-.+-\d+")
DESCRIBED = re.compile(r'^description="?(?P<folder>/[^"\n]*)"?$', re.MULTILINE)
MASTER = "master_id"
"""Where Vagrant keeps, beside a box, the id of the machine that it clones."""
SETTINGS = re.compile(r'Suggested VM settings file name "(.+?)"')
MACHINES = re.compile(r"^Default machine folder: +(.+)$", re.MULTILINE)
DISK = re.compile(r"(\d+): Hard disk image: source image=.+, target path=(.+),")


class VirtualBox:
    """Machines of ours, and the imported boxes that they are linked clones of."""

    def prepare(
        self, box: Path, name: str, version: str, *, deadline: Deadline, cancel: Cancel
    ) -> None:
        """Import the box, as Vagrant would, under a name that says what it is.

        A box that was killed in its import is known by that name, and imported anew.
        """
        with locked(state_home() / "locks" / "virtualbox", deadline=deadline, cancel=cancel):
            known = self._all("vms")
            master = box / MASTER
            if master.exists() and master.read_text().strip() in known.values():
                return
            own = imported_name(box, name, version)
            if own not in known or not self._was_cloned(known[own]):
                self.remove(own, deadline=deadline)
                self._import(box / "box.ovf", own, deadline, cancel)
                known = self._all("vms")
            master.write_text(known[own])

    def shown(self) -> Mapping[str, str]:
        halves = dict.fromkeys(self._halves(), "")  # First: one may be whole a moment later.
        listed = {name: self._folder_of(name) for name in self._all("vms") if OURS.fullmatch(name)}
        return halves | listed

    def running(self, name: str) -> bool:
        return _find(self._all("runningvms"), name) != ""

    def exists(self, name: str) -> bool:
        return self._is_listed(name) or name in self._halves()

    def remove(self, name: str, *, deadline: Deadline) -> None:
        if uuid := _find(self._all("vms"), name):
            if self.running(name):
                self._manage("controlvm", uuid, "poweroff", deadline=deadline)
            # Its session ends a moment after its process, and holds it until then.
            while self._manage("unregistervm", uuid, "--delete", deadline=deadline).status != 0:
                deadline.check()
                if not self._is_listed(name):
                    break
                NEVER.sleep(0.5)
        if name in (halves := self._halves()):
            processes.remove_folder(halves[name], name)

    # --- boxes ------------------------------------------------------------------------------

    def _was_cloned(self, uuid: str) -> bool:
        """Whether machines were made of it: then it is whole, and has the snapshot of its disk that
        they start from."""
        said = self._manage("snapshot", uuid, "list", "--machinereadable").stdout
        return b"SnapshotName" in said

    def _import(self, ovf: Path, own: str, deadline: Deadline, cancel: Cancel) -> None:
        """Its disks go into the folder of its name, as VirtualBox itself does only since 6.0."""
        suggested = self._manage("import", "-n", str(ovf), deadline=deadline).check(
            f"{ovf}: this is no box for VirtualBox"
        )
        said = suggested.stdout.decode(errors="replace")
        words = ["--vsys", "0", "--vmname", own]
        for unit, path in DISK.findall(said):
            settings = SETTINGS.search(said)
            place = Path(settings[1] if settings else path).parent.with_name(own)
            words += ["--vsys", "0", "--unit", unit, "--disk", str(place / Path(path).name)]
        try:
            self._manage("import", str(ovf), *words, deadline=deadline, cancel=cancel).check(
                "VirtualBox did not import the box"
            )
        except BaseException:
            self.remove(own, deadline=Deadline("boot", ASK_S))
            raise

    # --- asking -----------------------------------------------------------------------------

    def _halves(self) -> dict[str, Path]:
        """Folders with names of ours, in which no machine of ours was ever described: VirtualBox
        lists a clone only once it is whole, and one that was killed before stays a folder.

        One that is described and not listed is a machine of another VBOX_USER_HOME.
        """
        found = MACHINES.search(self._said("list", "systemproperties"))
        places = Path(found[1].strip()).glob("bo-*") if found else ()
        return {
            place.name: place
            for place in places
            if OURS.fullmatch(place.name) and place.is_dir() and not _is_described(place)
        }

    def _is_listed(self, name: str) -> bool:
        return _find(self._all("vms"), name) != ""

    def _folder_of(self, name: str) -> str:
        said = self._manage("showvminfo", name, "--machinereadable").stdout
        found = DESCRIBED.search(said.decode(errors="replace"))
        folder = found["folder"] if found else ""
        return folder if Path(folder).parts[-2:] == ("machines", name) else ""

    def _all(self, what: str) -> dict[str, str]:
        """Name -> uuid of every machine that VirtualBox has, whoever made it."""
        found = LISTED.finditer(self._said("list", what))
        return {each["name"]: each["uuid"] for each in found}

    def _said(self, *words: str) -> str:
        finished = self._manage(*words).check("VBoxManage does not answer")
        return finished.stdout.decode(errors="replace").replace("\r", "")

    def _manage(
        self, *words: str, deadline: Deadline | None = None, cancel: Cancel = NEVER
    ) -> command.Finished:
        limit = deadline or Deadline("virtualbox", ASK_S, f"VBoxManage {words[0]} to answer")
        return command.run(["VBoxManage", *words], deadline=limit, cancel=cancel)


def imported_name(box: Path, name: str, version: str) -> str:
    """What VirtualBox calls an imported box. One that another VAGRANT_HOME has is another one."""
    place = hashlib.sha256(str(box).encode()).hexdigest()[:8]
    return f"box-{name.replace('/', '-')}-{version}-{place}"


def _is_described(place: Path) -> bool:
    """Whether a machine's settings name the folder that we gave it."""
    settings = place / f"{place.name}.vbox"
    try:
        return f"/machines/{place.name}" in settings.read_text(errors="replace")
    except FileNotFoundError:
        return False
    except OSError:  # Not ours to read: not ours to remove.
        return True


def _find(known: Mapping[str, str], name: str) -> str:
    """The uuid of the machine with this name or uuid; nothing where there is none."""
    return known.get(name, name if name in known.values() else "")
