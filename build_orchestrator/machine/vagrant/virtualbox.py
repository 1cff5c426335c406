"""VirtualBox's own tool, ``VBoxManage``: machines by their name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from build_orchestrator import command
from build_orchestrator.deadline import NEVER, Cancel, Deadline

ASK_S = 60.0
LISTED = re.compile(r'"(?P<name>bo-[0-9a-f]{32}-.+-\d+)" \{(?P<uuid>[0-9a-f-]{36})\}')
DESCRIBED = re.compile(r'^description="?(?P<folder>/[^"\n]*)"?$', re.MULTILINE)


class VirtualBox:
    """Machines of ours.

    Vagrant gives a machine its name right after the import. What is killed during the import has a
    name of VirtualBox's own until somebody looks at it in VirtualBox.
    """

    names_late = True

    def prepare(
        self, box: Path, name: str, version: str, *, deadline: Deadline, cancel: Cancel
    ) -> None:
        """Vagrant's own lock sees to the box's disk: its master is imported once."""

    def shown(self) -> Mapping[str, str]:
        return {name: self._folder_of(name) for name in self._uuids("vms")}

    def running(self, name: str) -> bool:
        return name in self._uuids("runningvms")

    def exists(self, name: str) -> bool:
        return name in self._uuids("vms")

    def remove(self, name: str, *, deadline: Deadline) -> None:
        uuid = self._uuids("vms").get(name)
        if uuid is None:
            return
        if name in self._uuids("runningvms"):
            self._manage("controlvm", uuid, "poweroff", deadline=deadline)
        # Its session ends a moment after its process, and holds it until then.
        while self._manage("unregistervm", uuid, "--delete", deadline=deadline).status != 0:
            deadline.check()
            if not self.exists(name):
                return
            NEVER.sleep(0.5)

    def _folder_of(self, name: str) -> str:
        said = self._manage("showvminfo", name, "--machinereadable").stdout
        found = DESCRIBED.search(said.decode(errors="replace"))
        folder = found["folder"] if found else ""
        return folder if Path(folder).parts[-2:] == ("machines", name) else ""

    def _uuids(self, what: str) -> dict[str, str]:
        finished = self._manage("list", what).check("VBoxManage does not answer")
        found = LISTED.finditer(finished.stdout.decode(errors="replace"))
        return {each["name"]: each["uuid"] for each in found}

    def _manage(self, *words: str, deadline: Deadline | None = None) -> command.Finished:
        limit = deadline or Deadline("virtualbox", ASK_S, f"VBoxManage {words[0]} to answer")
        return command.run(["VBoxManage", *words], deadline=limit)
