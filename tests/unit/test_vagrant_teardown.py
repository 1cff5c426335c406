"""When a machine of Vagrant's counts as gone: by its provider's word, where that knows the name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, MachineLeaked
from build_orchestrator.machine.vagrant.adapter import Caller
from build_orchestrator.machine.vagrant.provider import VagrantMachine
from build_orchestrator.model import Identity

NAME = "bo-0123456789abcdef0123456789abcdef-debian_bookworm_virtualbox-1"


class ShowsNothing:
    """A provider that knows of no machine with this name."""

    def __init__(self, names_late: bool) -> None:
        self.names_late = names_late

    def prepare(
        self, box: Path, name: str, version: str, *, deadline: Deadline, cancel: Cancel
    ) -> None:
        """Nothing is needed."""

    def shown(self) -> Mapping[str, str]:
        return {}

    def running(self, name: str) -> bool:
        return name == ""

    def remove(self, name: str, *, deadline: Deadline) -> None:
        """There is nothing."""

    def exists(self, name: str) -> bool:
        return name == ""


@pytest.mark.parametrize("urgent", [False, True], ids=["Vagrant fails", "no time for Vagrant"])
@pytest.mark.parametrize("names_late", [False, True])
def test_an_id_without_a_name_is_a_machine_that_may_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names_late: bool, urgent: bool
) -> None:
    """Between import and name a machine in VirtualBox has only the id that Vagrant wrote."""
    folder = tmp_path / NAME
    (folder / f".vagrant/machines/{NAME}/virtualbox").mkdir(parents=True)
    (folder / f".vagrant/machines/{NAME}/virtualbox/id").write_text("1234")

    def fail(_: Caller) -> None:
        raise EnvironmentFailure("vagrant destroy failed")

    monkeypatch.setattr(Caller, "destroy", fail)
    identity = Identity(
        provider="virtualbox",
        name=NAME,
        run_uuid="0123456789abcdef0123456789abcdef",
        target="debian_bookworm_virtualbox",
        attempt=1,
        folder=str(folder),
    )
    machine = VagrantMachine(identity, ShowsNothing(names_late), None)
    deadline = Deadline("destroy", 5 if urgent else 600)
    if names_late:
        with pytest.raises(MachineLeaked, match="could not be proven dead"):
            machine.destroy(deadline=deadline)
        assert folder.exists(), "the id is in there"
    else:
        machine.destroy(deadline=deadline)
        assert not folder.exists()
