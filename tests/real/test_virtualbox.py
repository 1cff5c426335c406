"""What VirtualBox has of ours is found by its name whatever is killed; on the stand-in for it.

How machines boot, run and end there is in the contract (tests/contract).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import DeadlineExceeded
from build_orchestrator.machine.vagrant.virtualbox import MASTER, VirtualBox, imported_name
from tests.conftest import require
from tests.contract.machines import STANDINS, carrying, pull_the_plug, until
from tests.contract.projects import Project
from tests.real.empty_box import pack_box, write_box

TARGET = "debian_bookworm_virtualbox"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host with VirtualBox, on which nothing was imported yet."""
    require("qemu-img")
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("PATH", str(STANDINS), prepend=os.pathsep)
        monkeypatch.setenv("VBOX_USER_HOME", f"{folder}/vbox")
        monkeypatch.setenv("XDG_STATE_HOME", f"{folder}/state")
        yield Path(folder)


def manage(*arguments: str) -> None:
    subprocess.run(["VBoxManage", *arguments], stdout=subprocess.DEVNULL, check=True)


def shown(home: Path) -> dict[str, str]:
    """Name -> uuid, without asking: a stand-in that holds answers nobody."""
    found = [json.loads(path.read_text()) for path in home.glob("vbox/*.json")]
    return {each["name"]: each["uuid"] for each in found}


# --- boxes --------------------------------------------------------------------------------------


@pytest.fixture
def box(home: Path) -> Path:
    (home / "box").mkdir()
    return write_box(home / "box")


def prepare(box: Path, limit_s: float = 20.0) -> None:
    limit = Deadline("boot", limit_s)
    VirtualBox().prepare(box, "own/box", "1.0", deadline=limit, cancel=NEVER)


def test_a_box_is_imported_once(home: Path, box: Path) -> None:
    """Where Vagrant looks for it, with its disk in the folder of its name."""
    name = imported_name(box, "own/box", "1.0")
    prepare(box)
    first = shown(home)
    prepare(box)
    assert list(first) == [name]
    assert shown(home) == first
    assert (box / MASTER).read_text() == first[name]
    assert (home / "vbox/machines" / name / "disk.qcow2").exists()
    manage("unregistervm", name, "--delete")  # By hand, in VirtualBox's window.
    prepare(box)
    assert (box / MASTER).read_text() == shown(home)[name] != first[name]


def test_a_folder_that_only_looks_like_half_a_machine_stays(home: Path) -> None:
    """VirtualBox does not list its machine. That of another VBOX_USER_HOME is described."""
    place = home / "vbox/machines"
    names = [f"bo-{'0' * 32}-a_b_virtualbox-{attempt}" for attempt in (1, 2, 3)]
    for each in (*names[:2], f"{names[0]} of mine"):
        (place / each).mkdir(parents=True)
        (place / each / f"{each}.vbox").write_text("<Description>its box</Description>")
    described = f"<Description>/state/runs/1/machines/{names[1]}</Description>"
    (place / names[1] / f"{names[1]}.vbox").write_text(described)
    (place / names[2]).touch()
    tools = VirtualBox()

    assert dict(tools.shown()) == {names[0]: ""}
    for each in (*names, f"{names[0]} of mine"):
        tools.remove(each, deadline=Deadline("destroy", 20))
    assert {path.name for path in place.iterdir()} == {*names[1:], f"{names[0]} of mine"}
    assert not any(map(tools.exists, names))


def test_half_a_box_is_imported_anew_and_a_used_one_is_not(home: Path, box: Path) -> None:
    """What was killed in its import has its name, and no machine of it; what somebody calls almost
    so is not touched."""
    name = imported_name(box, "own/box", "1.0")
    for each in (name, f"{name} of mine"):
        disk = home / "vbox/machines" / each / "disk.vmdk"
        where = ("--vsys", "0", "--unit", "9", "--disk", str(disk))
        manage("import", str(box / "box.ovf"), "--vsys", "0", "--vmname", each, *where)
    half = shown(home)
    prepare(box)
    whole = shown(home)
    assert whole[name] != half[name]
    assert whole[f"{name} of mine"] == half[f"{name} of mine"]

    manage("snapshot", whole[name], "take", "base")
    (box / MASTER).unlink()  # The box was removed and added again; machines of it may be alive.
    prepare(box)
    assert shown(home) == whole
    assert (box / MASTER).read_text() == whole[name]


def test_an_import_that_takes_too_long_leaves_nothing(
    home: Path, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when VirtualBox has it already."""
    monkeypatch.setenv("VBOX_HOLDS", "import")
    with pytest.raises(DeadlineExceeded):
        prepare(box, limit_s=3.0)
    assert shown(home) == {}
    assert not (box / MASTER).exists()


# --- machines -----------------------------------------------------------------------------------


@pytest.fixture
def project(home: Path) -> Iterator[Project]:
    """A checkout whose one target is VirtualBox's."""
    require("vagrant", "ssh")
    made = Project(home / "home")
    digest = pack_box(made.folder / "own.box")
    row = {"image": {"box": "own/box", "path": "own.box", "sha256": digest}}
    content = yaml.safe_load((made.folder / "targets.yaml").read_text())
    content["default_provider"] = "virtualbox"
    content["defaults"] = {"attempts": 1}
    content["distros"]["debian_bookworm"]["providers"] = {"virtualbox": row}
    (made.folder / "targets.yaml").write_text(yaml.safe_dump(content))
    made.environ |= {name: os.environ[name] for name in ("PATH", "VBOX_USER_HOME")}
    made.environ["VAGRANT_HOME"] = str(home / "vagrant")
    yield made
    made.end()


def folders(home: Path) -> list[str]:
    """Of machines of ours, in VirtualBox's own folder."""
    return [path.parent.name for path in home.glob("vbox/machines/bo-*/disk.qcow2")]


@pytest.mark.parametrize("moment", ["half a clonevm", "clonevm"])
def test_a_machine_has_its_name_from_its_first_moment(
    home: Path, project: Project, moment: str
) -> None:
    """Killed while VirtualBox makes it, before Vagrant knows its id, or before VirtualBox lists it.
    Whoever has neither journal nor folder finds it, by its name alone."""
    another = {"XDG_STATE_HOME": str(home / "another")}
    with project.started("up", TARGET, VBOX_HOLDS=moment) as child:
        until(lambda: folders(home), 60)
        (name,) = folders(home)
        until(lambda: (name in shown(home)) == (moment == "clonevm"), 5)
        assert list(project.state.glob("runs/*/machines/*/.vagrant/machines/*/*/id")) == []
        if moment != "clonevm":  # Then VirtualBox answers nobody.
            spared = project.build("sweep", cwd=home, **another)
            assert f"{name}  (its orchestrator is alive)" in spared.stdout
        child.kill()
        pull_the_plug(name)
    shutil.rmtree(project.run)
    swept = project.build("sweep", **another)

    assert swept.status == 0, swept.words
    assert f"{name}  (its orchestrator is gone)" in swept.stdout
    assert list(home.glob("vbox/machines/bo-*")) == []
    assert len(shown(home)) == 1, "the box is imported for the next one, too"
    project.build("sweep")
    project.assert_nothing_left()


def test_a_vagrant_that_is_killed_is_the_environments(home: Path, project: Project) -> None:
    """Not only that: nothing is left of what it was about, though VirtualBox still works on it."""
    with project.started("up", TARGET, VBOX_HOLDS="half a clonevm") as child:
        until(lambda: folders(home), 60)
        (name,) = folders(home)
        comms = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in carrying(name)}
        vagrants = [pid for pid, comm in comms.items() if re.match("vagrant|ruby", comm)]
        assert vagrants, comms
        for pid in vagrants:
            os.kill(pid, signal.SIGKILL)
        words = "".join(child.communicate(timeout=60))
    assert child.returncode == 3, words
    assert list(home.glob("vbox/machines/bo-*")) == []
    pull_the_plug(name)  # The stand-in is not called VBoxManage, so it is not ended.
    project.assert_nothing_left()
