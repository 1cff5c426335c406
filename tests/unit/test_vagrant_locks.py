"""What separate orchestrators of one host would race for is done by one at a time.

Vagrant is a program that only says when it begins and ends; real ones are in tests/real.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Adds a box, or imports a machine, boots it and fails. What may be done side by side goes on once
# two have begun it, or after ten seconds.
VAGRANT = """\
#!/bin/sh
say() { echo "$(date +%s.%N) $1" >>"$TOLD"; }
two_of() {
    for i in $(seq 100); do [ "$(grep -c " $1 " "$TOLD")" -lt 2 ] || return 0; sleep 0.1; done
}
case "$*" in
*"box add"*)
    for word; do :; done
    box=$VAGRANT_HOME/boxes/$word/1.0/some_provider
    say "add $word"; two_of add
    mkdir -p "$box"; echo '{}' >"$box/metadata.json"; say "added $word" ;;
*" up "*)
    machine=.vagrant/machines/$BUILD_MACHINE/some_provider
    say "import $BUILD_MACHINE"; sleep 0.5; say "imported $BUILD_MACHINE"
    mkdir -p "$machine"; echo id >"$machine/id"
    echo booting; two_of import; say "booted $BUILD_MACHINE"; exit 1 ;;
esac
"""
# Adds a box file by file, and refuses to where one lies already, whole or not, as Vagrant does. The
# first time it stands still in the middle.
SLOW = """\
#!/bin/sh
for word; do :; done
box=$VAGRANT_HOME/boxes/$word/1.0/some_provider
[ ! -e "$box" ] || { echo "there already" >&2; exit 1; }
mkdir -p "$box"
if [ ! -e "$TOLD" ]; then
    for file in $HALF; do echo '{}' >"$box/$file"; done
    echo $$ >"$TOLD.part"; mv "$TOLD.part" "$TOLD"
    exec sleep 60
fi
echo '{}' >"$box/metadata.json"; touch "$box/box.img"
"""
ADD = """
import sys
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.machine.vagrant.boxes import public_box
from build_orchestrator.model import ImageSource
public_box(ImageSource(box=sys.argv[1], version="1.0"), "some_provider",
           deadline=Deadline("image", 20), cancel=NEVER, on_line=print)
"""
BOOT = """
import sys
from pathlib import Path
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import EnvironmentFailure
from build_orchestrator.machine import make_provider
from build_orchestrator.machine.contract import MachineRequest, silent
from build_orchestrator.model import Distro, Identity, Image, Size
folder = Path(sys.argv[1])
folder.mkdir()
identity = Identity(provider="some_provider", name=folder.name, run_uuid="",
                    target="a_some_provider", attempt=1, folder=str(folder))
request = MachineRequest(
    identity=identity, distro=Distro(name="a", distribution="A", release="1"),
    image=Image(source="", sha256="", disk="box", version="1.0"), size=Size(), limit_s=60,
    console=folder.parent / f"{folder.name}.txt", cold=True)
try:
    make_provider("some_provider", notify=silent).boot(
        request, deadline=Deadline("boot", 20), cancel=NEVER, identified=lambda _: None)
except EnvironmentFailure:
    sys.exit(0 if not folder.exists() else "the machine's folder is still there")
sys.exit("it booted")
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Vagrant says what it does."""
    program = tmp_path / "bin" / "vagrant"
    program.parent.mkdir()
    program.write_text(VAGRANT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    return tmp_path / "told"


def at_once(program: str, *arguments: str) -> None:
    """Run a program of Python once for each argument, all at the same time."""
    children = [subprocess.Popen([sys.executable, "-c", program, each]) for each in arguments]
    assert [child.wait(60) for child in children] == [0] * len(arguments)


def happened(told: Path) -> list[str]:
    """What Vagrant said, in the order of time."""
    return [line.partition(" ")[2] for line in sorted(told.read_text().splitlines())]


def test_a_box_is_fetched_once_for_all_who_want_it(told: Path) -> None:
    """The second waits, and then has it; another box does not wait."""
    at_once(ADD, "one", "one", "other")
    said = happened(told)
    assert sorted(said) == ["add one", "add other", "added one", "added other"]
    assert {each.partition(" ")[0] for each in said[:2]} == {"add"}, "different boxes at once"


@pytest.mark.parametrize("half", ["", "box.img", "metadata.json"])
def test_half_a_box_is_added_again(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    """Whoever was killed while it was added, and however far it had come."""
    (tmp_path / "bin/vagrant").write_text(SLOW)
    monkeypatch.setenv("HALF", half)
    box = tmp_path / "vagrant/boxes/one/1.0/some_provider"
    killed = subprocess.Popen([sys.executable, "-c", ADD, "one"])
    while not told.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    for pid in (killed.pid, int(told.read_text())):
        os.kill(pid, signal.SIGKILL)
    killed.wait()
    assert [path.name for path in box.iterdir()] == half.split()

    at_once(ADD, "one")
    assert sorted(path.name for path in box.iterdir()) == ["box.img", "metadata.json"]
    (box / "mark").touch()
    at_once(ADD, "one")
    assert (box / "mark").exists(), "one that is whole stays"
    assert not list(tmp_path.rglob("*.begun"))


def test_machines_are_imported_one_after_another_and_boot_at_once(
    told: Path, tmp_path: Path
) -> None:
    """The next one's import begins while the first one boots, and not before."""
    at_once(BOOT, str(tmp_path / "one"), str(tmp_path / "other"))
    said = happened(told)
    first, second = (each.partition(" ")[2] for each in said if each.startswith("import "))
    assert said[:3] == [f"import {first}", f"imported {first}", f"import {second}"]
    assert set(said[3:]) == {f"booted {first}", f"imported {second}", f"booted {second}"}
