"""What every provider promises: a live machine or none, found by its name, gone when destroyed.

The same tests hold for the fake and, marked ``real``, for machines of QEMU started warm and cold,
for libvirt's through Vagrant, and for those of an EC2 on loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from build_orchestrator.deadline import Cancel
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    Interrupted,
    MachineLost,
)
from build_orchestrator.machine import make_provider
from build_orchestrator.machine.contract import Machine, silent
from build_orchestrator.machine.vagrant.adapter import MARK
from build_orchestrator.model import Identity
from tests.contract.machines import (
    KINDS,
    LOCAL_KINDS,
    VAGRANT_KINDS,
    WARM_KINDS,
    Supply,
    carrying,
    nothing_left,
    pull_the_plug,
    said,
    soon,
    supplied,
    until,
)

ROOT = Path(__file__).parents[2]
Command = tuple[list[str], dict[str, str] | None]
"""Of a process, and its environment where that is not ours."""
ADOPTER = """
import json, sys
import msgspec
from build_orchestrator.deadline import Deadline
from build_orchestrator.machine import make_provider
from build_orchestrator.machine.contract import silent
from build_orchestrator.model import Identity
identity = msgspec.convert(json.loads(sys.argv[1]), Identity)
machine = make_provider(identity.provider, notify=silent).adopt(identity)
lines = []
assert machine.alive()
status = machine.run(b"echo adopted; exit 9", deadline=Deadline("ask", 60), on_line=lines.append)
if sys.argv[2] == "end":
    machine.destroy(deadline=Deadline("destroy", 60))
print(json.dumps([status, lines, machine.alive()]))
"""


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[tuple[Supply, Machine]]:
    """One machine for all tests that leave it as it is."""
    with supplied(request.param, request) as supply, supply.machine() as machine:
        yield supply, machine


@pytest.fixture(scope="module")
def machine(shared: tuple[Supply, Machine]) -> Machine:
    return shared[1]


@pytest.fixture(scope="module", params=WARM_KINDS)
def supply(request: pytest.FixtureRequest) -> Iterator[Supply]:
    """A provider whose machines each test starts and ends for itself."""
    with supplied(request.param, request) as supply:
        yield supply


@pytest.fixture(scope="module", params=KINDS)
def any_supply(request: pytest.FixtureRequest) -> Iterator[Supply]:
    """The same, for what a cold start does in its own way."""
    with supplied(request.param, request) as supply:
        yield supply


# --- inside a machine ---------------------------------------------------------------------------


def test_a_machine_says_who_it_is(shared: tuple[Supply, Machine]) -> None:
    """Its identity carries run, target, attempt and a name made of them."""
    supply, machine = shared
    identity = machine.identity
    assert identity.run_uuid == supply.journal.run_uuid
    assert (identity.provider, identity.attempt) == (supply.provider.name, 1)
    assert identity.name == f"bo-{identity.run_uuid}-{identity.target}-1"
    if supply.provider.name in ("fake", "qemu"):
        assert identity.details["pid"].isdigit()
    # An image's first start on this host is told, too: it is a machine of this name, until saved.
    assert supply.identified[-1] == identity, "told as soon as it is known"
    assert len(supply.identified) <= 2
    assert machine.host_key in ("image", "console", "first-use")
    warm = supply.provider.name == "qemu" and not supply.cold
    assert machine.start == ("warm" if warm else "cold")
    assert machine.alive()


@pytest.mark.parametrize("status", [0, 7, 75, 255])
def test_the_status_is_the_scripts_own(machine: Machine, status: int) -> None:
    """Also 255, which is ssh's own word for a broken connection."""
    assert machine.run(f"exit {status}".encode(), deadline=soon()) == status


def test_both_outputs_arrive_in_the_order_of_writing(machine: Machine) -> None:
    """Standard output and standard error are one stream of lines."""
    script = "for n in 1 2 3; do echo out $n; echo err $n >&2; done; printf 'no newline'"
    expected = [f"{kind} {n}" for n in (1, 2, 3) for kind in ("out", "err")]
    assert said(machine, script) == [*expected, "no newline"]


def test_bytes_that_are_not_utf_8_are_replaced(machine: Machine) -> None:
    """A script may say anything."""
    assert said(machine, "printf 'a\\377b\\n'") == ["a\ufffdb"]


def test_a_script_has_an_empty_input_and_no_terminal(machine: Machine) -> None:
    """What reads gets nothing, at once; what asks for a terminal finds none."""
    script = "cat; wc -c; [ -t 0 ] || [ -t 1 ] || (: </dev/tty) 2>/dev/null || echo no terminal"
    assert [line.strip() for line in said(machine, script)] == ["0", "no terminal"]


def test_a_script_ends_when_its_time_is_up(machine: Machine) -> None:
    """The deadline is the error, and the machine stays usable."""
    with pytest.raises(DeadlineExceeded):
        machine.run(b"sleep 60", deadline=soon(0.3))
    assert said(machine, "echo still here") == ["still here"]


def test_a_script_ends_when_somebody_asks_to_stop(machine: Machine) -> None:
    """A wish to stop ends the wait at once."""
    cancel = Cancel()
    with pytest.raises(Interrupted):
        machine.run(
            b"echo up; sleep 60",
            deadline=soon(),
            cancel=cancel,
            on_line=lambda _: cancel.set(signal.SIGTERM),
        )
    assert machine.alive()


def test_a_tree_comes_back_as_it_went(machine: Machine, tmp_path: Path) -> None:
    """Content, names and modes survive both ways, and both sides agree on the checksums."""
    there = tmp_path / "there"
    (there / "deep").mkdir(parents=True)
    (there / "deep" / "bytes").write_bytes(os.urandom(300_000))
    (there / "a b'c").write_text("x")
    (there / "script").write_text("#!/bin/sh\n")
    (there / "script").chmod(0o755)
    place = PurePosixPath("/var/tmp/bo test")
    sent = machine.push(there, place, deadline=soon())
    back = tmp_path / "back"
    received = machine.pull(place, back, deadline=soon())
    assert len(sent) == len(received) == 64
    for path in there.rglob("*"):
        twin = back / path.relative_to(there)
        assert path.is_dir() or twin.read_bytes() == path.read_bytes()
    assert os.access(back / "script", os.X_OK)
    assert not os.access(back / "a b'c", os.X_OK)


def test_a_folder_that_is_not_there_cannot_be_pulled(machine: Machine, tmp_path: Path) -> None:
    """A missing folder in a machine that is well is not the environment's fault."""
    with pytest.raises(Exception, match="no such folder") as caught:
        machine.pull(PurePosixPath("/nowhere/at all"), tmp_path / "x", deadline=soon())
    assert not isinstance(caught.value, EnvironmentFailure)


# --- its beginning ------------------------------------------------------------------------------


def test_a_machine_is_found_as_soon_as_it_can_exist(any_supply: Supply) -> None:
    """When somebody asks to stop at the moment it is known, nothing of it is left."""
    request = any_supply.request(boot_s="30")
    cancel, seen = Cancel(), []

    def stop(identity: Identity) -> None:
        until(lambda: carrying(identity.name))
        seen.append(identity.name)
        cancel.set(signal.SIGINT)

    with pytest.raises(Interrupted):
        any_supply.boot(request, cancel=cancel, identified=stop)
    assert set(seen) == {request.identity.name}
    nothing_left(request)


def test_a_boot_that_takes_too_long_leaves_nothing(any_supply: Supply) -> None:
    """A live machine or none at all, also when time is up in the middle."""
    request = any_supply.request(boot_s="30")
    with pytest.raises(DeadlineExceeded):
        any_supply.boot(request, boot_s=any_supply.too_short_s)
    nothing_left(request)


def test_a_boot_that_fails_leaves_nothing(any_supply: Supply) -> None:
    """Whatever is raised while a machine starts, it is destroyed first."""
    request = any_supply.request(boot_s="30")

    def die(identity: Identity) -> None:
        pull_the_plug(identity.name)
        raise ZeroDivisionError("a bug of ours")

    with pytest.raises(ZeroDivisionError):
        any_supply.boot(request, identified=die)
    nothing_left(request)


def test_rendering_starts_nothing(any_supply: Supply) -> None:
    """The files for people are text, and no machine comes from them."""
    request = any_supply.request()
    files = any_supply.provider.rendered(request)
    assert any(request.identity.name in text for text in files.values())
    assert not carrying(request.identity.name)
    assert list(Path(request.identity.folder).iterdir()) == []


# Through Vagrant: two at once are in tests/real/test_libvirt.py already, and VirtualBox's ports in
# tests/unit/test_vagrant_names.py; two more boots would take minutes.
def test_two_machines_are_two(supply: Supply) -> None:
    """Nothing that should be unique is shared by two machines of one image."""
    script = "cat /etc/machine-id; cat /etc/ssh/ssh_host_ed25519_key.pub; hostname"
    with supply.machine() as first, supply.machine() as second:
        assert first.identity.name != second.identity.name
        assert first.identity.folder != second.identity.folder
        assert first.identity.details != second.identity.details
        if supply.has_disk:
            assert first.identity.details["port"] != second.identity.details["port"]
            for mine, other in zip(said(first, script), said(second, script), strict=True):
                assert mine != other
        first.destroy(deadline=soon())
        assert second.alive()
        assert said(second, "echo well") == ["well"]


# --- its end ------------------------------------------------------------------------------------


# Through Vagrant: test_a_machine_of_vagrants_ends_as_promised.
def test_destroying_leaves_nothing_and_may_be_done_again(supply: Supply) -> None:
    """No process, no folder, no name; a second time is harmless."""
    request = supply.request()
    machine = supply.boot(request)
    assert names(supply) == [request.identity.name]
    machine.destroy(deadline=soon())
    nothing_left(request)
    assert not machine.alive()
    assert names(supply) == []
    machine.destroy(deadline=soon())


# Through Vagrant: nothing of a machine's processes is on this host, so they end with its QEMU.
def test_destroying_ends_what_runs_inside(supply: Supply) -> None:
    """A script that put itself into the background dies with its machine."""
    request = supply.request()
    machine = supply.boot(request)
    said(machine, "sleep 60 >/dev/null 2>&1 & echo started")
    machine.destroy(deadline=soon())
    nothing_left(request)


# Through Vagrant: test_a_machine_of_vagrants_ends_as_promised.
def test_a_machine_that_dies_under_a_script_is_lost(supply: Supply) -> None:
    """A crash from outside is told apart from a script's own failure."""
    request = supply.request()
    machine = supply.boot(request)
    with pytest.raises(MachineLost):
        machine.run(
            b"echo up; sleep 50",
            deadline=soon(),
            on_line=lambda _: pull_the_plug(request.identity.name),
        )
    assert not machine.alive()
    until(lambda: names(supply) == [])
    assert Path(request.identity.folder).exists(), "its disk is still there"
    machine.destroy(deadline=soon())
    nothing_left(request)


# Through Vagrant: test_a_machine_of_vagrants_ends_as_promised.
def test_a_limit_ends_a_machine_without_us(supply: Supply) -> None:
    """The second net: no orchestrator is needed to end what has lived too long."""
    request = supply.request(limit_s=supply.shortest_limit_s)
    machine = supply.boot(request)
    assert machine.alive()
    until(lambda: not machine.alive(), 30)
    until(lambda: not carrying(request.identity.name))
    machine.destroy(deadline=soon())
    nothing_left(request)


# Through Vagrant: test_a_machine_of_vagrants_ends_as_promised.
def test_releasing_leaves_a_machine_alive(supply: Supply) -> None:
    """A kept machine outlives its orchestrator, and another process can take it up and end it."""
    request = supply.request()
    machine = supply.boot(request)
    machine.release()
    assert machine.alive()
    assert adopted(machine.identity) == [9, ["adopted"], False]
    assert not machine.alive()
    nothing_left(request)
    machine.destroy(deadline=soon())


@pytest.mark.parametrize("shared", VAGRANT_KINDS, indirect=True)
def test_a_machine_of_vagrants_ends_as_promised(
    shared: tuple[Supply, Machine], tmp_path: Path
) -> None:
    """The last that is done with it, since a boot takes a minute or two. Released, it lives on, and
    another process takes it up; its limit ends it without us, and who talks to it hears that it is
    lost; its name alone finds and destroys what is left, and nobody else; a second time is
    harmless."""
    supply, machine = shared
    folder = Path(machine.identity.folder)
    name = machine.identity.name
    assert Path(machine.identity.details["key"]).stat().st_mode & 0o777 == 0o600
    assert said(machine, "id -u; grep -c . ~vagrant/.ssh/authorized_keys") == ["0", "1"]
    machine.release()
    assert machine.alive()
    assert adopted(machine.identity, end=False) == [9, ["adopted"], True]

    timers = [int(line.split()[1]) for line in said(machine, "ps -o args= -C sleep")]
    assert 900 < max(timers) <= 1800
    with pytest.raises(MachineLost):  # Its time is up, and nobody of ours does anything.
        machine.run(b"pkill -x sleep; exec tail -f /dev/null", deadline=soon(120))
    assert not machine.alive()
    assert folder.exists(), "its keys are still there"

    shutil.rmtree(folder / ".vagrant")  # As after a kill, with the checkout deleted.
    stranger = make_provider(supply.provider.name, notify=silent)
    (shown,) = [each for each in stranger.leftovers() if each.name == name]
    assert (shown.folder, dict(shown.details)) == (machine.identity.folder, {})
    (tmp_path / "vagrant").symlink_to("/bin/sleep")
    serving: list[Command] = [
        ([str(tmp_path / "vagrant"), "60"], {**os.environ, MARK: f"{name}x"}),
        (["sleep", "60"], {**os.environ, MARK: name}),  # As VirtualBox's own service may.
    ]
    with look_alikes(name, tmp_path, *serving):
        stranger.adopt(shown).destroy(deadline=soon())
        assert not folder.exists()
    nothing_left(machine)
    machine.destroy(deadline=soon())


def adopted(identity: Identity, *, end: bool = True) -> object:
    """What another process of ours makes of a machine that it knows by its identity alone."""
    argument = json.dumps(msgspec.to_builtins(identity))
    done = subprocess.run(
        [sys.executable, "-c", ADOPTER, argument, "end" if end else "leave"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout)


# --- from outside -------------------------------------------------------------------------------


def names(supply: Supply) -> list[str]:
    """The machines of this run that the provider shows. Others may have theirs on this host."""
    own = [each for each in supply.provider.leftovers() if each.run_uuid == supply.journal.run_uuid]
    return [each.name for each in own if each.attempt]  # 0: what machines of a run share.


# Through Vagrant: test_a_machine_of_vagrants_ends_as_promised.
def test_the_name_alone_finds_and_destroys_a_machine(supply: Supply) -> None:
    """Without any journal a provider shows whose machine it is, and where its disk is."""
    request = supply.request()
    machine = supply.boot(request)
    stranger = make_provider(supply.provider.name, notify=silent, cloud=supply.cloud)
    (shown,) = [each for each in stranger.leftovers() if each.name == request.identity.name]
    if supply.provider.name == "aws":  # It knows nothing of this host's folders.
        shown = dataclasses.replace(shown, folder=request.identity.folder)
    assert (shown.run_uuid, shown.target, shown.attempt, shown.folder) == (
        request.identity.run_uuid,
        request.identity.target,
        request.identity.attempt,
        request.identity.folder,
    )
    stranger.adopt(shown).destroy(deadline=soon())
    assert not machine.alive()
    nothing_left(request)
    machine.destroy(deadline=soon())


# Through Vagrant: test_a_machine_of_vagrants_ends_as_promised. Those of aws are not on this host.
@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_who_only_looks_like_a_machine_is_never_touched(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A pager, a shell and a recycled pid survive the end of the machine that they mention."""
    with supplied(kind, request) as supply:
        _look_alikes_survive(supply, tmp_path)


def _look_alikes_survive(supply: Supply, tmp_path: Path) -> None:
    request = supply.request()
    name = request.identity.name
    recycled = (["sleep", "60"], {**os.environ, "MACHINE_NAME": f"{name}x"})
    with look_alikes(name, tmp_path, recycled) as strangers:
        machine = supply.boot(request)
        until(lambda: name in names(supply))  # Between fork and exec a process shows no name.
        liar = Identity(
            provider=supply.provider.name,
            name=f"bo-{'0' * 32}-a_b_fake-1",
            run_uuid="0" * 32,
            target="a_b_fake",
            attempt=1,
            folder=str(tmp_path / f"bo-{'0' * 32}-a_b_fake-1"),
            details={"pid": str(strangers[-1].pid)},
        )
        supply.provider.adopt(liar).destroy(deadline=soon())
        machine.destroy(deadline=soon())
        assert not Path(request.identity.folder).exists()


@contextlib.contextmanager
def look_alikes(name: str, folder: Path, *more: Command) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that only mention a machine; they are alive after the block."""
    log = folder / name
    log.touch()
    commands: list[Command] = [
        (["tail", "-f", str(log)], None),
        (["tail", "-f", name], None),
        (["sh", "-c", "sleep 60; :", "qemu-system-x86_64", "-name", name], None),
        (["sleep", "60"], {**os.environ, "ABOUT": f"MACHINE_NAME={name}"}),
        *more,
    ]
    strangers = [
        subprocess.Popen(argv, cwd=folder, env=environment) for argv, environment in commands
    ]
    try:
        yield strangers
        assert [stranger.poll() for stranger in strangers] == [None] * len(strangers)
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()
