"""Networks of one's own, old machines and names, and what is swept beside machines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from build_orchestrator.errors import DeadlineExceeded
from build_orchestrator.machine.ec2 import boot
from build_orchestrator.machine.ec2.api import Api
from tests.contract.machines import said, supplied
from tests.contract.projects import ROOT, SCRIPT
from tests.real.aws_projects import TARGET, AwsProject, ec2, project, server
from tests.standins.ec2 import CREDENTIALS, PORT, REGION

__all__ = ["ec2", "project", "server"]

KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + b"A" * 43
WAITS = f"{SCRIPT}echo waiting\nsleep 1\n"
PLANTED = "planted-secret-of-a-recipe-0815"


def seen_while_it_waits(project: AwsProject) -> list[dict[str, Any]]:
    """What AWS shows while the script of the one build runs; the build then ends well."""
    shown: list[dict[str, Any]] = []
    with project.at_the_word("waiting", lambda: shown.append(project.server.shown())):
        done = project.up()
    assert done.status == 0, done.words
    assert shown, "the script was seen to wait"
    return shown


def test_a_subnet_of_ones_own(project: AwsProject, ec2: Any) -> None:
    """The machine is launched there, and the group is made in its network: it lets this host alone
    in, and is not left open afterwards."""
    network = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=network, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    project.write(launch={"subnet_id": subnet}, script=WAITS)
    (shown,) = seen_while_it_waits(project)
    assert shown["lets_in"] == [f"127.0.0.1/32 to {PORT}"]
    (machine,) = project.launched()
    assert (machine["subnet"], machine["public"]) == (subnet, True)
    assert project.server.left() == []


def test_a_private_address_and_a_range_that_may_connect(project: AwsProject) -> None:
    """No public address is given; we connect to the private one, and the group lets it in."""
    project.write(launch={"address": "private", "allow_from": "127.0.0.0/8"}, script=WAITS)
    (shown,) = seen_while_it_waits(project)
    (machine,) = project.launched()
    assert machine["public"] is False
    assert shown["lets_in"] == [f"127.0.0.0/8 to {PORT}"]


def test_a_silent_console_is_no_reason_to_trust_the_network_unasked(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who has asked for it takes the host key that the machine shows, and pins that one."""
    monkeypatch.setattr(Api, "console", lambda *_: "")
    monkeypatch.setattr(boot, "FIRST_USE_AFTER_S", 0.0)
    with supplied("aws", request) as supply:
        with supply.machine(supply.request(host_key="first-use")) as machine:
            assert machine.host_key == "first-use"
            assert said(machine, "echo here") == ["here"]
        with pytest.raises(DeadlineExceeded, match="console") as raised:
            supply.boot(boot_s=5)
        assert "launch.host_key: first-use" in str(raised.value)


def test_an_old_machine_is_let_do_what_it_can(project: AwsProject) -> None:
    """Its sshd reads no key but RSA, and has no host key but that, and it asks AWS for them without
    a token; so it is with whoever looks into it later. The shipped row of Ubuntu 12.04 says what
    ssh of today must allow it."""
    shipped = yaml.safe_load((ROOT / "targets.yaml").read_text())["distros"]["ubuntu_precise"]
    row = {name: shipped[name] for name in ("legacy", "ssh")}
    project.write(ami=project.server.old_ami, distro=row)
    done = project.up("--keep", "always")
    assert done.status == 0, done.words
    assert project.row()["host_key"] == "console"
    assert [each["key"].endswith("-rsa") for each in project.launched()] == [True]
    assert project.build("ssh", TARGET, "--", "echo", "inside").stdout == "inside\n"
    swept = project.build("sweep", TARGET)
    assert swept.status == 0, swept.words
    assert project.server.left() == []
    project.assert_nothing_left()


def test_a_group_of_ones_own_is_used_and_left_alone(project: AwsProject, ec2: Any) -> None:
    """None is made, and nothing of somebody else's is changed or removed."""
    own = ec2.create_security_group(GroupName="own", Description="of somebody else")["GroupId"]
    project.write(launch={"security_group_id": own}, script=WAITS)
    (shown,) = seen_while_it_waits(project)
    assert shown["groups"] == ["own"]
    (machine,) = project.launched()
    assert machine["groups"] == [own]
    assert project.server.shown()["groups"] == ["own"]


def test_a_group_that_is_not_there_is_told_at_once(project: AwsProject) -> None:
    """Not after minutes, as one that AWS does not know yet; and once, however many attempts."""
    project.write(launch={"security_group_id": f"sg-{17 * '0'}"}, attempts=3)
    asked = project.server.shown()["actions"]
    done = project.up()
    assert done.status == 3, done.words
    failure = project.row()["failure"]
    assert failure["brief"] == f"{REGION} has no security group sg-{17 * '0'}"
    assert "launch.security_group_id" in failure["resolution"]
    assert project.row()["attempts"] == 1
    now = project.server.shown()["actions"]
    assert [
        now.get(each, 0) - asked.get(each, 0) for each in ("RunInstances", "ImportKeyPair")
    ] == [
        0,
        0,
    ]
    assert project.server.shown()["lets_in"] == []


def test_disks_and_keys_without_a_machine_are_swept(project: AwsProject, ec2: Any) -> None:
    """Those of ours, when their orchestrator has been silent for long enough; no other's."""
    tags = {"build-orchestrator:run": "ab" * 16, "build-orchestrator:heartbeat": "1"}
    ours = [{"Key": key, "Value": value} for key, value in tags.items()]

    def volume(*tags: dict[str, str]) -> str:
        kind = [{"ResourceType": "volume", "Tags": list(tags)}] if tags else []
        made = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=1, TagSpecifications=kind)
        return str(made["VolumeId"])

    theirs, left = volume(), volume(*ours)
    killed = project.state / "runs" / ("ef" * 16)
    killed.mkdir(parents=True)
    (killed / "heartbeat").touch()
    fresh = {"Key": "build-orchestrator:heartbeat", "Value": str(int(time.time()))}
    other = {"Key": "build-orchestrator:run", "Value": "cd" * 16}
    living = volume(other, fresh)
    volume({"Key": "build-orchestrator:run", "Value": "ef" * 16}, fresh)  # Killed here just now.
    ec2.import_key_pair(
        KeyName=f"bo-{'ab' * 16}",
        PublicKeyMaterial=KEY,
        TagSpecifications=[{"ResourceType": "key-pair", "Tags": ours}],
    )
    listed = project.at_standin("sweep", "--provider", "aws", "--dry-run")
    assert f"found      bo-{'ab' * 16}" in listed.stdout
    assert left in project.server.shown()["volumes"]
    swept = project.at_standin("sweep", "--provider", "aws")
    assert swept.status == 0, swept.words
    assert f"spared     bo-{'cd' * 16}" in swept.stdout
    shown = project.server.shown()
    assert set(shown["volumes"]) == {theirs, living}
    assert shown["keys"] == []


def test_the_old_name_of_the_secret_key_is_taken_with_a_warning(project: AwsProject) -> None:
    """And is never shown; beside the proper name it counts for nothing."""
    secret = project.environ.pop("AWS_SECRET_ACCESS_KEY")
    without = project.at_standin("up", TARGET)
    assert without.status == 4, without.words
    assert "AWS_SECRET_ACCESS_KEY" in without.stderr
    done = project.at_standin("sweep", "--provider", "aws", AWS_ACCESS_KEY=secret)
    assert done.status == 0, done.words
    assert "call it AWS_SECRET_ACCESS_KEY" in done.stderr
    assert secret not in done.words
    both = project.at_standin(
        "sweep", "--provider", "aws", AWS_ACCESS_KEY="another", AWS_SECRET_ACCESS_KEY=secret
    )
    assert "AWS_ACCESS_KEY" not in both.stderr


def test_no_secret_is_an_argument_or_lies_in_a_file(project: AwsProject) -> None:
    """Not while the script runs, anywhere on this host: its processes are listed, and every file of
    the run and of the state folder is read."""
    project.write(script=f'[ "${{#TOKEN}}" = {len(PLANTED)} ] && {WAITS}', secrets=("TOKEN",))
    secrets = [PLANTED.encode(), CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()]
    found: list[str] = []

    def look() -> None:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            found.extend(_holding(place, secrets))
        for place in [*project.run.rglob("*"), *project.state.rglob("*")]:
            found.extend(_holding(place, secrets))
        found.append("looked")

    with project.at_the_word("waiting", look):
        done = project.up(TOKEN=PLANTED)
    assert done.status == 0, done.words
    assert found == ["looked"]
    assert PLANTED not in done.words


def _holding(place: Path, secrets: list[bytes]) -> list[str]:
    try:
        content = place.read_bytes() if place.is_file() else b""
    except OSError:  # It has ended meanwhile.
        return []
    return [str(place) for secret in secrets if secret in content]
