"""Machines of another state folder on the same host: their journal counts as ours does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.journal import Journal, machine_name
from build_orchestrator.machine.contract import MachineRequest
from build_orchestrator.machine.fake import FakeMachine, FakeProvider
from build_orchestrator.model import Distro, Identity, Image, Size
from build_orchestrator.sweep import sweep

RUN = "0123456789abcdef0123456789abcdef"
NAME = machine_name(RUN, "debian_bookworm_fake", 1)


def kept_machine(folder: Path, until: float) -> FakeMachine:
    """A fake machine that its orchestrator, which is gone by now, kept."""
    journal = Journal(RUN, folder)
    request = MachineRequest(
        identity=Identity(
            provider="fake",
            name=NAME,
            run_uuid=RUN,
            target="debian_bookworm_fake",
            attempt=1,
            folder=str(journal.folder_for(NAME)),
        ),
        distro=Distro(name="debian_bookworm", distribution="Debian", release="bookworm"),
        image=Image(source="none", sha256="", disk=""),
        size=Size(),
        limit_s=60,
        console=folder / "console.txt",
    )
    journal.intend(request.identity, limit_at=time.time() + 60, request={})
    machine = FakeProvider().boot(
        request, deadline=Deadline("boot", 10), cancel=NEVER, identified=journal.identify
    )
    journal.keep(NAME, until)
    journal.close()
    return machine


@pytest.mark.alone
@pytest.mark.parametrize(("seconds", "state"), [(60, "spared"), (-1, "destroyed")])
def test_a_kept_machine_of_another_state_folder_is_spared_until_its_time(
    isolated_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    state: str,
) -> None:
    """Whoever sweeps with another XDG_STATE_HOME asks the journal beside the machine."""
    machine = kept_machine(tmp_path, time.time() + seconds)
    monkeypatch.setenv("XDG_STATE_HOME", str(isolated_home / "another"))
    try:
        swept = sweep(lambda _: FakeProvider(), ("fake",), project=None, only="")

        assert [each.state for each in swept if each.name == NAME] == [state]
        assert machine.alive() == (state == "spared")
    finally:
        machine.destroy(deadline=Deadline("destroy", 10))
