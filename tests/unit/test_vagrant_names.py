"""Whose machine it is, told by names alone, and how it may be reached."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from build_orchestrator.cli.machines import _as_root
from build_orchestrator.deadline import Cancel, Deadline
from build_orchestrator.errors import EnvironmentFailure, HostNotReady, MachineLeaked
from build_orchestrator.machine import PROVIDERS, make_provider, processes
from build_orchestrator.machine.contract import silent
from build_orchestrator.machine.vagrant import libvirt, ports, provider, virtualbox
from build_orchestrator.machine.vagrant.adapter import MARK
from build_orchestrator.machine.vagrant.connection import facts_of
from build_orchestrator.machine.vagrant.provider import _works_on
from build_orchestrator.machine.vagrant.tools import Tools
from build_orchestrator.model import Identity

UUID = "0" * 32
NAME = f"bo-{UUID}-debian_one_libvirt-1"


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        (NAME, NAME),
        (f"{NAME}.img", NAME),
        (f"{NAME}_1.img", NAME),
        (f"{NAME}0.img", f"{NAME}0"),
        ("bo-123-debian_one_libvirt-1", ""),
        (f"x{NAME}", ""),
        ("build-orchestrator-VAGRANTSLASH-bookworm_vagrant_box_image_0.0.1_box.img", ""),
    ],
)
def test_a_domain_and_its_volumes_have_one_name(shown: str, name: str) -> None:
    """The tenth attempt is not the first, and a box's own volume is nobody's machine."""
    found = libvirt.OURS.fullmatch(shown)
    assert (found[1] if found else "") == name


def test_a_list_of_virtualbox_shows_ours_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's own machines may be called anything."""
    own = f'"{NAME}" {{12345678-1234-1234-1234-123456789abc}}'
    text = f'"mine" {{87654321-1234-1234-1234-123456789abc}}\n{own}\n"<inaccessible>" {{x}}\n'
    virtualbox_says = tmp_path / "VBoxManage"
    virtualbox_says.write_text(f"#!/bin/sh\n[ $1 = showvminfo ] || cat <<'END'\n{text}END\n")
    virtualbox_says.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    tools = virtualbox.VirtualBox()
    assert dict(tools.shown()) == {NAME: ""}
    for name in (NAME, "12345678-1234-1234-1234-123456789abc"):
        assert tools.exists(name)
    assert not tools.exists(NAME[:-2])


@pytest.mark.parametrize(("program", "ours"), [("ruby3.1", True), ("VBoxSVC", False)])
def test_what_serves_everybody_is_never_ended(tmp_path: Path, program: str, ours: bool) -> None:
    """VirtualBox's service inherits our mark from the first machine that starts it."""
    (tmp_path / program).symlink_to("/bin/sleep")
    child = subprocess.Popen([tmp_path / program, "30"], env={**os.environ, MARK: NAME})
    try:
        while processes.arguments(child.pid)[1:] != ("30",):  # Until it has become the program.
            pass
        assert _works_on(child.pid, NAME) is ours
        assert not _works_on(child.pid, f"{NAME}0")
    finally:
        child.kill()
        child.wait()


def facts(folder: Path, host: str, key: Path) -> None:
    ssh = {"host": host, "port": 22, "username": "vagrant", "private_key_path": [str(key)]}
    (folder / "ssh.json").write_text(json.dumps({"ssh": ssh, "host_keys": "ssh-ed25519 AAAA\n"}))


def test_what_vagrant_says_of_a_machine_is_enough_to_reach_it(tmp_path: Path) -> None:
    """Host, port, user, its own key, and its host keys."""
    facts(tmp_path, "192.168.121.7", tmp_path / ".vagrant" / "private_key")

    assert facts_of(tmp_path) == {
        "host": "192.168.121.7",
        "port": "22",
        "user": "vagrant",
        "key": str(tmp_path / ".vagrant" / "private_key"),
    }
    assert (tmp_path / "host_keys").read_text() == "ssh-ed25519 AAAA\n"


@pytest.mark.parametrize(
    ("host", "key", "words"),
    [
        ("127.0.0.1", Path("/vagrant.d/insecure_private_key"), "came with its box"),
        ("8.8.8.8", None, "no private address"),
        ("box.example.org", None, "no private address"),
    ],
)
def test_a_machine_that_anybody_could_be_is_refused(
    tmp_path: Path, host: str, key: Path | None, words: str
) -> None:
    """A key that everybody has, and an address at which anybody could answer."""
    facts(tmp_path, host, key or tmp_path / "private_key")
    with pytest.raises(EnvironmentFailure, match=words):
        facts_of(tmp_path)


def test_a_vagrant_that_says_nothing_is_told(tmp_path: Path) -> None:
    """Such as one whose trigger did not run."""
    with pytest.raises(EnvironmentFailure, match="did not say"):
        facts_of(tmp_path)


def test_two_builds_are_never_given_one_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while neither of their machines listens yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    limit = Deadline("boot", 5)
    with (
        ports.port_of("virtualbox", deadline=limit, cancel=Cancel()) as first,
        ports.port_of("virtualbox", deadline=limit, cancel=Cancel()) as second,
        ports.port_of("libvirt", deadline=limit, cancel=Cancel()) as none,
    ):
        assert first != second
        assert first in ports.PORTS
        assert second in ports.PORTS
        assert none == 0


def test_a_look_inside_is_as_root() -> None:
    """Whoever logs in: a shell, or a command of several words."""
    vagrant = {"user": "vagrant"}
    assert _as_root(("ver",), {**vagrant, "windows": "true"}) == ["machine", "ver"]
    assert _as_root(("id", "-u"), {"user": "root"}) == ["machine", "id", "-u"]
    assert _as_root((), vagrant)[-3:] == ["sudo", "-n", "-i"]
    line = " ".join(_as_root(("id -un;", "id -g"), vagrant)[1:])
    assert line == "sudo -n -H sh -c 'id -un; id -g'"


def test_a_provider_of_ours_is_not_taken_for_vagrants(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version of ours booted, Vagrant knows nothing of."""
    monkeypatch.delitem(PROVIDERS, "qemu")

    assert make_provider("vmware_desktop", notify=silent).name == "vmware_desktop"
    with pytest.raises(HostNotReady, match="no provider qemu"):
        make_provider("qemu", notify=silent)


def test_the_library_is_imported_only_when_vagrant_is_called() -> None:
    """It costs time, and complains on hosts without Vagrant."""
    program = (
        "import sys; from build_orchestrator.machine import make_provider as make;"
        "from build_orchestrator.machine.contract import silent;"
        "make('libvirt', notify=silent); sys.exit('vagrant' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_libvirt_that_does_not_answer_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many hosts have virsh and no daemon: their machines of other providers are swept as ever."""
    virsh = tmp_path / "virsh"
    virsh.write_text("#!/bin/sh\necho 'error: Failed to connect socket' >&2\nexit 1\n")
    virsh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    told: list[str] = []

    make_provider("libvirt", notify=told.append).leftovers()  # Others may boot some meanwhile.

    assert "libvirt does not answer" in told[0]


class LateTools:
    """A provider that shows a machine for as many looks as it is told."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.removed = 0

    def remove(self, name: str, *, deadline: Deadline) -> None:
        del name, deadline
        self.removed += 1

    def exists(self, name: str) -> bool:
        del name
        self.looks -= 1
        return self.looks >= 0


@pytest.mark.parametrize(("looks", "leaked"), [(0, False), (2, False), (99, True)])
def test_what_comes_late_is_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int, leaked: bool
) -> None:
    """Only what the provider does not show any more is called dead."""
    monkeypatch.setattr(provider, "PAUSE_S", 0.0)
    tools = LateTools(looks)
    identity = Identity(
        provider="libvirt",
        name=NAME,
        run_uuid=UUID,
        target="debian_one_libvirt",
        attempt=1,
        folder=str(tmp_path / NAME),
    )
    machine = provider.VagrantMachine(identity, cast(Tools, tools), None)
    if leaked:
        with pytest.raises(MachineLeaked, match="proven dead"):
            machine.destroy(deadline=Deadline("destroy", 5))
    else:
        machine.destroy(deadline=Deadline("destroy", 5))
        assert tools.removed == looks + 1
