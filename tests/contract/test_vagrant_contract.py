"""What every provider promises of a machine's end, seen on two machines of libvirt's.

A boot through Vagrant takes a minute where QEMU emulates, so that what is several tests for other
providers (test_provider_contract.py) is one story here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from build_orchestrator.errors import MachineLost
from build_orchestrator.machine import make_provider
from build_orchestrator.machine.contract import Machine, MachineRequest, silent
from tests.contract.machines import (
    REAL,
    Supply,
    in_libvirt,
    nothing_left,
    said,
    soon,
    supplied,
)
from tests.contract.test_provider_contract import adopted, names

pytestmark = REAL


@pytest.fixture
def supply(request: pytest.FixtureRequest) -> Iterator[Supply]:
    with supplied("libvirt", request) as supply:
        yield supply


def test_two_machines_end_as_promised(supply: Supply) -> None:
    """They boot at once and share nothing; one ends by its limit, one is released and adopted."""
    limited, kept = supply.request(limit_s=1), supply.request()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(outlived, supply, limited)
        second = pool.submit(supply.boot, kept)
        lost, machine = first.result(), second.result()

    # The limit: no orchestrator was needed, and who waited for the script was told.
    assert not lost.alive()
    assert sorted(names(supply)) == [limited.identity.name, kept.identity.name]
    # By its name alone, without Vagrant's files: as after a kill, with the checkout deleted.
    shutil.rmtree(Path(limited.identity.folder) / ".vagrant")
    stranger = make_provider("libvirt", notify=silent)
    (shown,) = [each for each in stranger.leftovers() if each.name == limited.identity.name]
    assert shown.folder == limited.identity.folder
    assert dict(shown.details) == {}
    stranger.adopt(shown).destroy(deadline=soon())
    nothing_left(limited)
    lost.destroy(deadline=soon())

    # Released, it lives on; another process takes it up and ends it.
    assert lost.identity.details["host"] != machine.identity.details["host"]
    key = Path(machine.identity.details["key"])
    assert key.stat().st_mode & 0o777 == 0o600
    assert said(machine, "id -u; grep -c . ~vagrant/.ssh/authorized_keys") == ["0", "1"]
    machine.release()
    assert machine.alive()
    assert adopted(machine.identity) == [9, ["adopted"], False]
    nothing_left(kept)
    machine.destroy(deadline=soon())
    assert [each for each in in_libvirt() if supply.journal.run_uuid in each] == []


def outlived(supply: Supply, request: MachineRequest) -> Machine:
    """A machine whose limit has passed while a script ran in it."""
    machine = supply.boot(request)
    with pytest.raises(MachineLost):
        machine.run(b"sleep 300", deadline=soon(120))
    return machine
