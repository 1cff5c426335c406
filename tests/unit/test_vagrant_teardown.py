"""When a machine of Vagrant's counts as gone: by its provider's word, whatever Vagrant says."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from build_orchestrator.deadline import Deadline
from build_orchestrator.errors import EnvironmentFailure, MachineLeaked
from build_orchestrator.machine.vagrant.adapter import Caller
from build_orchestrator.machine.vagrant.provider import VagrantMachine
from build_orchestrator.machine.vagrant.tools import Tools
from build_orchestrator.model import Identity

NAME = "bo-0123456789abcdef0123456789abcdef-debian_bookworm_virtualbox-1"
ID = "12345678-1234-1234-1234-123456789abc"


class Shows:
    """A provider that has these machines, each with a name or id, and removes them or not."""

    def __init__(self, *shown: str, removes: bool = True) -> None:
        self.shown = {*shown}
        self.removes = removes

    def remove(self, name: str, *, deadline: Deadline) -> None:
        deadline.check()
        if self.removes:
            self.shown.discard(name)

    def exists(self, name: str) -> bool:
        return name in self.shown


def machine(folder: Path, tools: Shows) -> VagrantMachine:
    """One of which Vagrant has written an id."""
    files = folder / f".vagrant/machines/{NAME}/virtualbox"
    files.mkdir(parents=True)
    (files / "id").write_text(ID)
    identity = Identity(
        provider="virtualbox",
        name=NAME,
        run_uuid="0123456789abcdef0123456789abcdef",
        target="debian_bookworm_virtualbox",
        attempt=1,
        folder=str(folder),
    )
    return VagrantMachine(identity, cast(Tools, tools), None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine's folder, in which Vagrant fails."""

    def fail(_: Caller) -> None:
        raise EnvironmentFailure("vagrant destroy failed")

    monkeypatch.setattr(Caller, "destroy", fail)
    return tmp_path / NAME


@pytest.mark.parametrize("urgent", [False, True], ids=["Vagrant fails", "no time for Vagrant"])
@pytest.mark.parametrize("shown", [(), (NAME,), (ID, "somebody's")])
def test_the_provider_alone_is_enough(folder: Path, shown: tuple[str, ...], urgent: bool) -> None:
    """It removes the machine by its name, and by the id that Vagrant wrote: a Vagrant that we do
    not know may give the name later."""
    tools = Shows(*shown)
    machine(folder, tools).destroy(deadline=Deadline("destroy", 5 if urgent else 600))
    assert not folder.exists()
    assert tools.shown <= {"somebody's"}


@pytest.mark.parametrize("shown", [NAME, ID])
def test_what_the_provider_still_shows_may_live(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    """By its name or by its id; then what Vagrant knows stays for the next try."""
    monkeypatch.setattr("build_orchestrator.machine.vagrant.provider.PAUSE_S", 0.0)
    with pytest.raises(MachineLeaked, match="could not be proven dead"):
        machine(folder, Shows(shown, removes=False)).destroy(deadline=Deadline("destroy", 600))
    assert folder.exists(), "the id is in there"
