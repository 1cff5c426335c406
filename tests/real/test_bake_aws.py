"""Images of AWS, baked by the real Packer from a real machine behind the EC2 stand-in."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.image import resolve
from build_orchestrator.machine import make_provider, processes
from build_orchestrator.machine.baker import MARK
from build_orchestrator.machine.contract import Cloud, silent
from build_orchestrator.machine.ec2.permissions import actions_of, policy
from build_orchestrator.model import ImageSource
from build_orchestrator.sweep import sweep
from tests.conftest import require
from tests.contract.projects import OUTPUT, ROOT
from tests.real.aws_projects import TARGET, AwsProject
from tests.standins.ec2 import CREDENTIALS, REGION, Ec2, ec2_server

LOCK = "images.lock.yaml"
INSTALL = "echo baked >/opt/prerequisite\n"
SCRIPT = f'cat /opt/prerequisite >"$BUILD_OUTPUT/{OUTPUT}"\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Ec2]:
    require("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen", "mmdebstrap", "mke2fs", "packer")
    image = resolve(
        ImageSource(bootstrap="bookworm"),
        project=Path.cwd(),
        deadline=Deadline("image", 800),
        cancel=NEVER,
        on_line=silent,
    )
    with ec2_server(Path(image.disk).parent) as server:
        yield server


class BakeProject(AwsProject):
    """A project whose images are baked."""

    limit_s = 600

    def declare(self, install: str = INSTALL) -> None:
        self.write(script=SCRIPT, ami=self.server.machine_ami, launch={"user": "root"}, boot_s=400)
        path = self.folder / "targets.yaml"
        content = yaml.safe_load(path.read_text())
        content["flavours"] = {"prerequisites": {"script": "install.sh"}}
        content["recipes"]["agent"]["flavour"] = "prerequisites"
        path.write_text(yaml.safe_dump(content))
        (self.folder / "install.sh").write_text(install)

    def baked(self) -> list[dict[str, Any]]:
        """What the lock says was baked."""
        found: list[dict[str, Any]] = yaml.safe_load((self.folder / LOCK).read_text())["baked"]
        return found

    def packers(self) -> list[int]:
        """Every process of a bake of this project."""
        ours = {f"HOME={self.home}"}
        return [
            pid
            for pid in processes.find(lambda pid: ours <= {*processes.environment(pid)})
            if any(line.startswith(f"{MARK}=") for line in processes.environment(pid))
        ]


@pytest.fixture
def project(server: Ec2, tmp_path: Path) -> Iterator[BakeProject]:
    made = BakeProject(tmp_path / "home", server)
    made.environ["AWS_POLL_DELAY_SECONDS"] = "1"  # Packer's own is 15.
    made.declare()
    yield made
    for pid in made.packers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    made.end()
    server.reset()


@pytest.mark.soak  # Two machines: `make test` has a real one of AWS already, and real bakes.
def test_an_image_is_baked_locked_started_elsewhere_and_pruned(project: BakeProject) -> None:
    before = project.server.shown()
    done = project.at_standin("bake", TARGET)
    assert done.status == 0, done.words
    (row,) = project.baked()
    assert row["target"] == TARGET
    assert row["size_gib"] > 0
    assert {"systemd", "openssh-server"} <= row["packages"].keys()
    after = project.server.shown()
    assert set(after["images"]) - set(before["images"]) == {row["ami"]}
    assert project.server.left() == []
    assert project.packers() == []
    asked = {
        f"ec2:{name}"
        for name, times in after["actions"].items()
        if times > before["actions"].get(name, 0)
    }
    named = re.findall(r"ec2:\w+", (ROOT / "docs/how-to/bake-images.md").read_text())
    assert asked <= actions_of(policy()) | {*named}

    elsewhere = {"XDG_CACHE_HOME": str(project.home / "another")}
    built = project.at_standin("up", TARGET, "--require-baked", **elsewhere)
    assert built.status == 0, built.words
    (artifact,) = project.folder.glob(f"dist/dev/*/{OUTPUT}")
    assert artifact.read_text() == "baked\n"
    again = project.at_standin("bake", TARGET, **elsewhere)
    assert "unchanged" in again.stdout, again.words

    (project.folder / "install.sh").write_text(f"{INSTALL}# another line\n")
    spared = project.build("images", "prune", "--json")
    assert [each["state"] for each in json.loads(spared.stdout)] == ["spared"]
    locked = (project.folder / LOCK).read_text()
    (project.folder / LOCK).unlink()
    young = project.build("images", "prune")
    assert "another checkout's" in young.stdout, young.words
    assert row["ami"] in project.server.shown()["images"]
    pruned = project.build("images", "prune", "--now")
    assert "removed" in pruned.stdout, pruned.words
    left = project.server.shown()
    assert row["ami"] not in left["images"]
    assert set(left["snapshots"]) == set(before["snapshots"])

    (project.folder / "install.sh").write_text(INSTALL)
    (project.folder / LOCK).write_text(locked)
    gone = project.at_standin("up", TARGET, "--require-baked", **elsewhere)
    assert gone.status == 3, gone.words
    assert f"its {row['ami']} is not in {REGION} any more" in gone.stdout


def test_another_hosts_sweep_spares_what_packer_runs(
    project: BakeProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that it can go by are the tags, and the journal where both share the checkout."""
    for name, value in {**CREDENTIALS, "XDG_STATE_HOME": str(tmp_path / "there")}.items():
        monkeypatch.setenv(name, value)
    cloud = Cloud(endpoint=project.server.endpoint, regions=(REGION,))

    def swept(names: tuple[str, ...], checkout: Path | None) -> list[str]:
        provider = functools.partial(make_provider, notify=silent, cloud=cloud)
        return [each.reason for each in sweep(provider, names, project=checkout)]

    with project.started("bake", TARGET, "--aws-endpoint", project.server.endpoint) as child:
        launched(project)
        (journal,) = project.folder.glob("runs/*/journal.jsonl")
        checkout = tmp_path / "shared"
        copy = checkout / "runs" / journal.parent.name / journal.name
        copy.parent.mkdir(parents=True)
        # The state folder that it tells of is not on the other host.
        text = journal.read_text().replace(str(project.home), str(tmp_path / "nowhere"))
        copy.write_text(text)
        for names, known in (((), checkout), (("aws",), checkout), (("aws",), None)):
            (reason,) = swept(names, known)
            assert reason.startswith("its orchestrator was alive")
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=120) == 143
    assert project.server.left() == []
    project.assert_nothing_left()


def test_a_killed_packer_leaves_no_machine(project: BakeProject) -> None:
    with project.started("bake", TARGET, "--aws-endpoint", project.server.endpoint) as child:
        launched(project)
        told = b"".join(path.read_bytes() for path in project.home.rglob("*") if path.is_file())
        for pid in project.packers():
            told += " ".join(processes.arguments(pid)).encode()
            with contextlib.suppress(ProcessLookupError):  # A plugin ends with what it serves.
                os.kill(pid, signal.SIGKILL)
        stdout, stderr = child.communicate(timeout=120)
    assert child.returncode == 3, stdout + stderr
    assert "killed by SIGKILL" in stdout
    # Credentials are environment alone.
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode() not in told
    assert CREDENTIALS["AWS_ACCESS_KEY_ID"].encode() not in told
    assert project.server.left() == []
    project.assert_nothing_left()


def test_a_sweep_ends_what_a_killed_bake_has_left(project: BakeProject) -> None:
    with project.started("bake", TARGET, "--aws-endpoint", project.server.endpoint) as child:
        launched(project)
        child.kill()
        child.wait()
        for pid in project.packers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert project.server.alive()
    swept = project.at_standin("sweep", "--provider", "aws")
    assert swept.status == 0, swept.words
    assert f"{TARGET}-bake-1" in swept.stdout
    assert project.server.left() == []
    project.assert_nothing_left()


def launched(project: BakeProject) -> None:
    """Wait until Packer has its machine."""
    end = time.monotonic() + 120
    while not project.server.alive():
        assert time.monotonic() < end, "no machine was launched"
        time.sleep(0.1)
