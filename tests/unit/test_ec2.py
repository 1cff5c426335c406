"""What EC2 is asked for, and what its answers mean: everything that needs no EC2."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    Interrupted,
    MachineLeaked,
    Refused,
)
from build_orchestrator.journal import JOURNAL, Journal, read
from build_orchestrator.machine.baker import PackerProvider
from build_orchestrator.machine.contract import MachineRequest, ShowsHeartbeats, silent
from build_orchestrator.machine.ec2 import (
    boot,
    images,
    launch,
    leftovers,
    permissions,
    provider,
    shared,
)
from build_orchestrator.machine.ec2.api import Api as Ec2Api
from build_orchestrator.machine.ec2.api import asking, persist
from build_orchestrator.machine.ec2.errors import Meaning, explained, meaning_of
from build_orchestrator.machine.ec2.machine import SHOWN_S, Ec2Machine
from build_orchestrator.machine.ec2.watch import HEARTBEAT_S, Watch
from build_orchestrator.model import Distro, Identity, Image, ImageSource, Size
from build_orchestrator.sweep import _asked_for
from build_orchestrator.transport.ssh import Ssh

RUN = "0123456789abcdef" * 2
NOW = 1_800_000_000.0
SHARED = launch.Shared(key_name=f"bo-{RUN}", group_id="sg-1", public_key="ssh-ed25519 AAAA")
ROOT = launch.Root(device="/dev/xvda", size_gib=10)


def request(attempt: int = 1, **options: str) -> MachineRequest:
    name = f"bo-{RUN}-debian_aws-{attempt}"
    return MachineRequest(
        identity=Identity(
            provider="aws", name=name, run_uuid=RUN, target="debian_aws", attempt=attempt
        ),
        distro=Distro(name="debian", distribution="Debian", release="bookworm"),
        image=Image(source="ami-1", sha256="", disk="ami-1"),
        size=Size(disk_mib=8192),
        limit_s=100,
        console=Path("console.txt"),
        options=options,
    )


def parameters(asked: MachineRequest) -> dict[str, Any]:
    return launch.parameters(asked, launch.place_of(asked), SHARED, ROOT, now=NOW)


# --- the request --------------------------------------------------------------------------------


def test_every_attempt_has_a_place_and_a_token_of_its_own() -> None:
    """A token with other parameters is refused by AWS, so none is ever used for two places."""
    options = {"spot": "true", "zones": "a b", "instance_types": "t3.small"}
    places = [str(launch.place_of(request(attempt, **options))) for attempt in range(1, 6)]
    on_demand = ["t3.small in a", "t3.small in b"]
    assert places == [*(f"{each}, spot" for each in on_demand), *on_demand, f"{on_demand[0]}, spot"]
    tokens = {launch.token_of(request(attempt).identity) for attempt in range(1, 6)}
    assert len(tokens) == 5
    assert all(len(token) <= 64 for token in tokens), "AWS takes no more"
    last = [launch.is_last_place(request(attempt, **options)) for attempt in range(1, 5)]
    assert last == [False, False, False, True]


def test_a_machine_is_launched_as_the_promises_say() -> None:
    """Tags from its first moment on, an encrypted disk, IMDSv2, and an end of its own."""
    asked = parameters(request(address="private", subnet_id="subnet-1", zones="a"))
    assert asked == parameters(request(address="private", subnet_id="subnet-1", zones="a"))
    assert asked["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    old = dataclasses.replace(request(), distro=dataclasses.replace(request().distro, legacy=True))
    assert parameters(old)["MetadataOptions"]["HttpTokens"] == "optional", "it knows no tokens"
    disk = asked["BlockDeviceMappings"][0]["Ebs"]
    assert disk == {
        "VolumeSize": 10,  # The image's own: a smaller one is refused.
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    for tagged in asked["TagSpecifications"]:
        tags = launch.tags_of(tagged)
        assert tags[launch.RUN] == RUN
        assert tags["Name"] == f"bo-{RUN}-debian_aws-1"
        assert tags[launch.EXPIRES_AT] == str(int(NOW) + 100)
        assert tags[launch.TARGET] == "debian_aws"
    assert [each["ResourceType"] for each in asked["TagSpecifications"]] == ["instance", "volume"]
    (interface,) = asked["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is False
    assert "IamInstanceProfile" not in asked


def of_packer() -> str:
    """The user data of a machine that Packer launches with the same limit."""
    path = Path(__file__).parents[2] / "packer/ubuntu_precise/packerfile.json"
    builders = json.loads(path.read_text())["builders"]
    (said,) = (each["user_data"] for each in builders if "user_data" in each)
    return str(said).replace("{{user `limit_s`}}", "1")


@pytest.mark.parametrize("script", [launch.user_data(0.2), of_packer()], ids=["ours", "packer"])
def test_the_user_data_ends_the_machine_at_its_limit(script: str, tmp_path: Path) -> None:
    """Where there is no systemd, a shell waits; where there is, a timer does."""
    for name, text in {
        "systemd-run": "exit 1",
        "poweroff": f"echo off >>{tmp_path}/said",
        "sleep": f"echo slept $1 >>{tmp_path}/said",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["sh", "-c", f"{script}\nwait"], env=environ, check=True, timeout=10)
    assert (tmp_path / "said").read_text() == "slept 1\noff\n"
    assert "--on-active=1s" in script


# --- what AWS says ------------------------------------------------------------------------------


def refused(code: str, status: int = 400) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        "RunInstances",
    )


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (refused("InsufficientInstanceCapacity", 500), Meaning.NO_CAPACITY),
        (refused("RequestLimitExceeded", 503), Meaning.BUSY),
        (refused("InvalidGroup.NotFound"), Meaning.NOT_YET),
        (refused("InvalidSecurityGroupID.NotFound"), Meaning.NOT_YET),
        (refused("InvalidKeyPair.Duplicate"), Meaning.NOT_YET),
        (refused("InvalidInstanceID.NotFound"), Meaning.GONE),
        (refused("VcpuLimitExceeded"), Meaning.REFUSED),
        (refused("UnauthorizedOperation", 403), Meaning.FORBIDDEN),
        (refused("InternalError", 500), Meaning.NO_ANSWER),
        (ReadTimeoutError(endpoint_url="x"), Meaning.NO_ANSWER),
        (EndpointConnectionError(endpoint_url="x"), Meaning.UNREACHED),
        (NoCredentialsError(), Meaning.REFUSED),
    ],
)
def test_each_error_means_one_thing_to_do(error: Exception, meaning: Meaning) -> None:
    """Above all: whether a machine may have come of a launch."""
    assert meaning_of(error) is meaning


def test_an_error_says_what_to_try() -> None:
    """And never shows what stands before an @ in an address."""
    quota = explained(refused("VcpuLimitExceeded"), "launch")
    assert "quota" in quota.resolution
    assert isinstance(quota, Refused), "asking again changes nothing"
    assert not isinstance(explained(refused("RequestLimitExceeded", 503), "launch"), Refused)
    forbidden = explained(refused("UnauthorizedOperation"), "launch")
    assert isinstance(forbidden, Refused), "nor does it here"
    assert "aws.md" in forbidden.resolution
    error = EndpointConnectionError(endpoint_url="http://me:hidden@host")
    assert "hidden" not in str(explained(error, "launch"))


def test_times_are_by_the_clock_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first answer on, whatever was asked: a heartbeat by a clock that is late would be
    taken for a dead orchestrator's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")

    def answer(request: Any, **_: Any) -> AWSResponse:
        headers: Any = HeadersDict({"Date": formatdate(time.time() + 240, usegmt=True)})
        said = SimpleNamespace(stream=lambda: [b"<DescribeKeyPairsResponse/>"])
        return AWSResponse(request.url, 200, headers, said)

    api = Ec2Api("eu-west-1", "http://127.0.0.1:1")
    api.ec2.meta.events.register("before-send", answer)
    assert abs(api.now() - time.time()) < 1
    api.ec2.describe_key_pairs()
    assert 235 < api.now() - time.time() < 245


def test_a_page_that_aws_has_not_written_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a proxy sends one, or whoever else listens at --aws-endpoint: no bug of ours, and not to
    be taken for a yes."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")

    def answer(request: Any, **_: Any) -> AWSResponse:
        said = SimpleNamespace(stream=lambda: [b"<html>Welcome & <br></html>"])
        headers: Any = HeadersDict({})
        return AWSResponse(request.url, 200, headers, said)

    ec2 = Ec2Api("eu-west-1", "http://127.0.0.1:1")
    ec2.ec2.meta.events.register("before-send", answer)
    with pytest.raises(EnvironmentFailure, match="AWS did not answer"):
        persist(ec2.ec2.describe_key_pairs, "look", deadline=Deadline("boot", 0.1), cancel=NEVER)
    with pytest.raises(EnvironmentFailure, match="AWS did not answer"), asking("look"):
        ec2.ec2.describe_key_pairs()
    with pytest.raises(EnvironmentFailure, match="AWS did not answer"):
        permissions._asked(permissions.LAUNCH, ec2.ec2.describe_key_pairs)
    assert ec2.console("i-1") == ""


def test_many_launches_at_once_wait_for_what_an_image_starts_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AWS throttles it, as all else: that costs nobody an attempt."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a")
    monkeypatch.setattr("build_orchestrator.machine.ec2.api.ATTEMPTS", 1)
    image = "<item><imageId>ami-1</imageId><rootDeviceName>/dev/sda1</rootDeviceName></item>"
    error = "<Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors>"
    shown = f"<A><imagesSet>{image}</imagesSet></A>"
    answers = iter([(503, f"<Response>{error}</Response>"), (200, shown)])

    def answer(request: Any, **_: Any) -> AWSResponse:
        status, text = next(answers)
        headers: Any = HeadersDict({})
        said = SimpleNamespace(stream=lambda: [text.encode()])
        return AWSResponse(request.url, status, headers, said)

    api = Ec2Api("eu-west-1", "http://127.0.0.1:1")
    api.ec2.meta.events.register("before-send", answer)
    one: Any = MagicMock(request=request(), api=api, deadline=Deadline("boot", 20), cancel=NEVER)
    one.shared.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        boot.Boot.go(one)
    assert api.root_of("ami-1").device == "/dev/sda1"


def host_key(kind: str, *fields: bytes) -> str:
    """A public key of this kind, as ssh writes it."""
    content = b"".join(len(each).to_bytes(4, "big") + each for each in (kind.encode(), *fields))
    return f"{kind} {base64.b64encode(content).decode()}"


def test_host_keys_are_taken_from_a_whole_block_only() -> None:
    """The console may end in the middle of a line."""
    key = host_key("ssh-ed25519", b"A" * 32)
    begin, end = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"
    whole = f"boot\r\n{begin}\r\n{key} root@x\r\n{end}\r\nlogin:"
    assert launch.host_keys(whole) == key
    assert launch.host_keys(whole[: whole.index(end)]) == ""
    newer = host_key("ssh-ed25519", b"B" * 32)
    assert launch.host_keys(whole + whole.replace(key, newer)) == newer


def test_host_keys_of_old_machines_are_known_by_what_they_print() -> None:
    """Those of cloud-init 0.6, on Ubuntu 12.04, and what is left of them on a console that has lost
    a part of one, or has a word of the kernel's in it."""
    ecdsa = host_key("ecdsa-sha2-nistp256", b"nistp256", b"\4" + b"E" * 64)
    rsa = host_key("ssh-rsa", b"\1\0\1", b"\0" + b"R" * 256)
    console = f"""\
ec2: #############################################################
ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----
ec2: 256 50:88:08:61:1f:d2:29:9d:5b:e8:95:6b:c5:2b:b7:26  root@ip-10-0-0-1 (ECDSA)
ec2: 2048 9d:5b:e8:95:6b:c5:2b:b7:26:50:88:08:61:1f:d2:29  root@ip-10-0-0-1 (RSA)
ec2: -----END SSH HOST KEY FINGERPRINTS-----
ec2: #############################################################
-----BEGIN SSH HOST KEY KEYS-----
{ecdsa} root@ip-10-0-0-1
{rsa} root@ip-10-0-0-1
-----END SSH HOST KEY KEYS-----
cloud-init boot finished at Thu, 26 Nov 2026 06:00:00 +0000. Up 24.30 seconds
"""
    assert launch.host_keys(console).splitlines() == [ecdsa, rsa]
    middle = len(rsa) // 2
    for cut in (f"{rsa[:-8]}\n", f"{rsa[:middle]}[   24.1] random: ready\n{rsa[middle:]}"):
        assert launch.host_keys(console.replace(rsa, cut)) == ecdsa
    assert launch.host_keys(console.replace(rsa, rsa[:-8]).replace(ecdsa, ecdsa[:60])) == ""


# --- what is left -------------------------------------------------------------------------------


@dataclass
class Api:
    """An EC2 that shows what it is told to."""

    shown: list[launch.Seen] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    region: str = "eu-west-1"
    endpoint: str = ""
    asked: int = 0

    @property
    def ec2(self) -> Api:
        return self

    def now(self) -> float:
        return NOW

    def machines(self, **_: str) -> list[launch.Seen]:
        self.asked += 1
        return self.shown

    def describe_key_pairs(self, **_: Any) -> dict[str, Any]:
        return {}

    describe_volumes = describe_key_pairs

    def describe_security_groups(self, **_: Any) -> dict[str, Any]:
        return {"SecurityGroups": self.groups}


def shown(name: str, **tags: str) -> launch.Seen:
    return launch.seen(
        {
            "InstanceId": "i-1",
            "State": {"Name": "running"},
            "Tags": launch.tag_list({"Name": name, **tags}),
        }
    )


def found(*machines: launch.Seen, groups: tuple[dict[str, Any], ...] = ()) -> list[Identity]:
    api = Api(shown=list(machines), groups=list(groups))
    return leftovers.find(api)  # type: ignore[arg-type]


def test_only_what_carries_our_name_and_our_tag_is_ours() -> None:
    """A name alone anybody may give, and a tag may be copied."""
    ours = shown(f"bo-{RUN}-a_aws-1", **{launch.RUN: RUN})
    named = shown(f"bo-{RUN}-a_aws-1")
    copied = shown("web server", **{launch.RUN: RUN})
    other = shown(f"bo-{RUN}-a_aws-1", **{launch.RUN: "f" * 32})
    assert [each.target for each in found(ours)] == ["a_aws"]
    assert found(named) == found(copied) == found(other) == []


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({launch.HEARTBEAT: str(NOW - 2 * HEARTBEAT_S)}, "alive 120 s ago"),
        ({launch.HEARTBEAT: str(NOW - 4 * HEARTBEAT_S)}, ""),
        ({launch.HEARTBEAT: "by hand"}, ""),
        ({launch.KEPT_UNTIL: str(NOW + 60)}, "kept until"),
        ({launch.KEPT_UNTIL: str(NOW - 60)}, ""),
    ],
)
def test_another_hosts_machine_is_judged_by_its_tags(tags: dict[str, str], why: str) -> None:
    """Three periods of silence are a dead orchestrator's, by the clock of AWS."""
    (identity,) = found(shown(f"bo-{RUN}-a_aws-1", **{launch.RUN: RUN, **tags}))
    said = [each for each in ("living", "spared") if each in identity.details]
    assert said == (["living"] if "alive" in why else ["spared"] if why else [])
    assert why in "".join(identity.details.get(each, "") for each in said)


@pytest.mark.parametrize("by", ["machine", "group", "nothing"])
def test_a_run_of_another_host_lives_as_long_as_anything_of_it_says_so(by: str) -> None:
    """Also one whose machine is not there yet; and not because another run lives."""
    old, new = (
        {launch.RUN: RUN, launch.HEARTBEAT: str(NOW - periods * HEARTBEAT_S)} for periods in (9, 1)
    )
    other = {**new, launch.RUN: "f" * 32}
    groups = [{"Tags": launch.tag_list(each)} for each in (old, new if by == "group" else other)]
    api: Any = Api(groups=groups)
    api.shown = [shown(f"bo-{RUN}-a_aws-1", **(new if by == "machine" else old))]
    said = "" if by == "nothing" else "its orchestrator was alive 60 s ago"
    assert leftovers.living(api, RUN) == said
    shown_by_name = {each.name: each.details for each in leftovers.find(api)}
    assert shown_by_name[f"bo-{RUN}-a_aws-1"].get("living", "") == said


@pytest.mark.parametrize("run_uuid", [RUN, "e" * 32])
def test_a_bake_of_another_host_lives_as_its_run_does(
    monkeypatch: pytest.MonkeyPatch, run_uuid: str
) -> None:
    """Its machine is Packer's, and has no heartbeat: what the run shares has one. Of a bake that
    is not in AWS nobody asks there."""
    group = {launch.RUN: RUN, launch.HEARTBEAT: str(NOW - HEARTBEAT_S)}
    api = Api(groups=[{"Tags": launch.tag_list(group)}])
    monkeypatch.setattr(provider, "api_of", lambda *_: api)
    baker = PackerProvider()
    assert isinstance(baker, ShowsHeartbeats)
    identity = dataclasses.replace(request().identity, provider="packer", run_uuid=run_uuid)
    assert (baker.living(identity), api.asked) == ("", 0)
    there = dataclasses.replace(identity, details={"region": "eu-west-1"})
    assert bool(baker.living(there)) == (run_uuid == RUN)


def test_what_a_run_shares_lives_without_a_machine_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be long in coming, or Packer's; and it ends with the run."""
    for name in ("HEARTBEAT_S", "LIVING_S"):
        monkeypatch.setattr(f"build_orchestrator.machine.ec2.watch.{name}", 0.02)
    beats: list[Any] = []
    api: Any = SimpleNamespace(
        now=lambda: NOW, ec2=SimpleNamespace(create_tags=lambda **asked: beats.append(asked))
    )
    watch = Watch(api, RUN)
    watch.beat_for("key-1", "sg-1")
    end = time.monotonic() + 10
    while len(beats) < 3 and time.monotonic() < end:
        time.sleep(0.005)
    watch.close()
    assert beats[2] == {
        "Resources": ["key-1", "sg-1"],
        "Tags": launch.tag_list({launch.HEARTBEAT: str(int(NOW))}),
    }
    assert [each.name for each in threading.enumerate() if each.name == "ec2"] == []


def test_whoever_waits_in_vain_hears_why() -> None:
    """A subnet may give no public address, and a policy no console: neither looks like a machine
    that is slow."""
    running = shown(f"bo-{RUN}-a_aws-1")
    api: Any = SimpleNamespace(machines=lambda **_: [running])
    watch = Watch(api, RUN)
    watch.ask()
    with pytest.raises(DeadlineExceeded, match=r"boot") as raised:
        watch.wait(running.name, lambda _: False, deadline=Deadline("boot", 0), cancel=NEVER)
    assert "running, public address: none" in raised.value.details
    refusing: Any = MagicMock()
    refusing.ec2.get_console_output.side_effect = refused("UnauthorizedOperation", 403)
    assert Ec2Api.console(refusing, "i-1") == ""
    one: Any = MagicMock(api=refusing, deadline=Deadline("boot", 0))
    with pytest.raises(DeadlineExceeded) as raised:
        boot.Boot._awaited(one, MagicMock(), lambda: "", "its console")
    assert "its console; AWS refuses to show it with UnauthorizedOp" in raised.value.details


def test_who_asks_at_the_same_time_asks_once() -> None:
    """When many scripts fail, or the network does, every machine is looked for at one moment: AWS
    would throttle so many questions, and one answer tells of all machines."""
    asked = []

    def machines(**_: str) -> list[launch.Seen]:
        asked.append(1)
        time.sleep(0.3)
        return []

    api: Any = SimpleNamespace(machines=machines)
    watch = Watch(api, RUN)
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda _: watch.ask(), range(50)))
    assert 2 <= len(asked) < 10, "those who came during the first one want a newer answer"


def test_a_group_without_machines_stands_for_its_run() -> None:
    """What a run's machines shared is found when none of them is left, and not before."""
    group = {"Tags": launch.tag_list({launch.RUN: RUN})}
    (identity,) = found(groups=(group,))
    assert (identity.name, identity.attempt) == (f"bo-{RUN}", 0)
    machine = shown(f"bo-{RUN}-a_aws-1", **{launch.RUN: RUN})
    assert [each.attempt for each in found(machine, groups=(group,))] == [1]


@pytest.mark.parametrize(("age_s", "leaks"), [(SHOWN_S - 60, True), (SHOWN_S + 1, False)])
def test_a_launch_without_an_answer_counts_as_a_machine(age_s: float, leaks: bool) -> None:
    """For five minutes AWS may not show yet what it has made; then its silence is proof."""
    identity = Identity(
        provider="aws",
        name=f"bo-{RUN}-a_aws-1",
        run_uuid=RUN,
        target="a_aws",
        attempt=1,
        details={"intended_at": str(time.time() - age_s)},
    )
    api = Api()
    ssh = Ssh(Path("/nowhere"), host="", port=22, user="root", identity_file=Path("/nowhere/key"))
    machine = Ec2Machine(identity, api, ssh)  # type: ignore[arg-type]
    if leaks:
        with pytest.raises(MachineLeaked, match="may still appear"):
            machine.destroy(deadline=Deadline("destroy", 10))
    else:
        assert machine._ids(Deadline("destroy", 10)) == []
    assert api.asked == 1


def test_a_launch_that_is_asked_for_late_is_waited_for_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS may not have answered for minutes, and then the orchestrator dies: what counts is when it
    last asked, and so the journal knows that before. It needs none for what is asked at once."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(boot, "persist", lambda ask, *_, **__: ask())
    asked, known = [], Journal(RUN, tmp_path)
    monkeypatch.setattr(boot.Boot, "_made", lambda _, identity: identity)

    def launching(request: MachineRequest, waited_s: float) -> Identity:
        """What the journal said of the machine when AWS was asked for it."""
        identity = dataclasses.replace(request.identity, folder=str(tmp_path / "machine"))
        request = dataclasses.replace(request, identity=identity)
        known.intend(identity, limit_at=NOW, request={"options": dict(request.options)})

        def run_instances(**_: Any) -> None:
            asked.append(time.time())
            raise KeyboardInterrupt

        api: Any = SimpleNamespace(once=SimpleNamespace(run_instances=run_instances))
        one: Any = boot.Boot(
            request=request,
            api=api,
            watch=MagicMock(),
            shared=MagicMock(),
            deadline=Deadline("boot", 20),
            cancel=NEVER,
            identified=known.identify,
            notify=silent,
            outlives=lambda: None,
        )
        one._journalled_at = time.time() - waited_s
        with pytest.raises(KeyboardInterrupt):
            one._launch({})
        return _asked_for(read(tmp_path / JOURNAL)[-1])

    late = launching(request(1, region="eu-west-1"), SHOWN_S)
    assert asked[0] - 1 < float(late.details["intended_at"]) <= asked[0]
    assert (late.details["region"], "instance" in late.details) == ("eu-west-1", False)
    at_once = (tmp_path / JOURNAL).read_text().count('"identity"')
    launching(request(2, region="eu-west-1"), 1)
    assert (tmp_path / JOURNAL).read_text().count('"identity"') == at_once == 1
    known.close()


class Account:
    """As much of EC2 as making and removing what a run shares asks for."""

    meta = SimpleNamespace(endpoint_url="http://127.0.0.1:1")

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.ports: list[int] = []
        self.groups: list[str] = []
        self.let_in: list[tuple[str, str]] = []
        self.tags: list[dict[str, str]] = []
        self.others = ["sg-own"]
        self.ended: list[str] = []
        self.behind = 0
        """So many answers do not show yet what was made."""

    def describe_key_pairs(self, Filters: list[dict[str, Any]]) -> dict[str, Any]:
        wanted = Filters[0]
        if self._is_behind():
            return {}
        names = self.keys if wanted["Name"] == f"tag:{launch.RUN}" else wanted["Values"]
        return {"KeyPairs": [{"KeyName": n, "KeyPairId": n} for n in names if n in self.keys]}

    def _is_behind(self) -> bool:
        self.behind -= 1
        return self.behind >= 0

    def import_key_pair(self, **asked: Any) -> dict[str, Any]:
        self.keys[asked["KeyName"]] = asked["PublicKeyMaterial"]
        self.tags += map(launch.tags_of, asked["TagSpecifications"])
        return {"KeyPairId": asked["KeyName"]}

    def delete_key_pair(self, KeyName: str) -> None:
        del self.keys[KeyName]

    def describe_security_groups(self, GroupIds: Sequence[str] = (), **_: Any) -> dict[str, Any]:
        if GroupIds and GroupIds[0] not in self.others:
            raise refused("InvalidGroup.NotFound")
        if self._is_behind():
            return {}
        return {"SecurityGroups": [{"GroupId": f"sg-{n}", "GroupName": n} for n in self.groups]}

    def describe_subnets(self, SubnetIds: list[str]) -> dict[str, Any]:
        return {"Subnets": [{"VpcId": f"vpc-of-{SubnetIds[0]}"}]}

    def create_security_group(self, GroupName: str, **asked: Any) -> dict[str, Any]:
        self.groups.append(GroupName)
        self.tags += map(launch.tags_of, asked["TagSpecifications"])
        return {"GroupId": f"sg-{GroupName}"}

    def authorize_security_group_ingress(self, **asked: Any) -> None:
        (rule,) = asked["IpPermissions"]
        self.ports.append(rule["FromPort"])
        self.let_in.append((asked["GroupId"], rule["IpRanges"][0]["CidrIp"]))

    def delete_security_group(self, GroupId: str) -> None:
        self.groups.remove(GroupId.removeprefix("sg-"))

    def describe_volumes(self, **_: Any) -> dict[str, Any]:
        return {}

    def terminate_instances(self, InstanceIds: list[str]) -> None:
        self.ended += InstanceIds


def test_a_run_that_talks_in_two_ways_has_one_group_and_both_keys(tmp_path: Path) -> None:
    """Each port is open, whichever machine came first; and nothing of it stays."""
    account = Account()
    api: Any = SimpleNamespace(
        ec2=account, once=account, region="eu-west-1", now=lambda: NOW, machines=lambda **_: []
    )
    ground = {"deadline": Deadline("boot", 20), "cancel": NEVER}
    purpose = launch.purpose_of(request())
    for communicator, key in (("ssh", "ed25519"), ("winrm", "rsa"), ("ssh", "ed25519")):
        way = launch.way_of(request().distro, communicator, {})
        place = shared.user_key(tmp_path / "runs/bo/machine", way.key_kind)
        ids: list[str] = []
        made = shared.make_shared(api, purpose, {}, way, place, ids.append, **ground)  # type: ignore[arg-type]
        assert place.name == f"id_{key}"
        assert (made.key_name, made.group_id) == (launch.key_name(RUN, way), f"sg-bo-{RUN}")
        assert ids == [made.key_name, made.group_id]
    kinds = {name: content.split()[0] for name, content in account.keys.items()}
    assert kinds == {f"bo-{RUN}": b"ssh-ed25519", f"bo-{RUN}-rsa": b"ssh-rsa"}
    rsa: Any = load_ssh_public_key(account.keys[f"bo-{RUN}-rsa"])
    assert rsa.key_size == 2048, "AWS does not take every length"
    assert (set(account.ports), account.groups) == ({22, 5986}, [f"bo-{RUN}"])
    assert account.tags == 3 * [purpose.tags(f"bo-{RUN}", now=NOW)]

    assert shared.remove_shared(api, RUN, deadline=Deadline("destroy", 20)) == ()
    assert (account.keys, account.groups) == ({}, [])


def test_a_group_goes_with_the_last_machine_though_that_is_shown_alive_a_little_longer() -> None:
    """What AWS has just been told to end it may still show running; another machine keeps it."""
    name, account = f"bo-{RUN}-a_aws-1", Account()
    account.groups.append(f"bo-{RUN}")
    running = shown(name, **{launch.RUN: RUN})
    states = iter(["running", "shutting-down"])
    other = [dataclasses.replace(running, instance_id="i-2")]

    def machines(**_: str) -> list[launch.Seen]:
        return [dataclasses.replace(running, state=next(states, "terminated")), *other]

    api: Any = SimpleNamespace(
        ec2=account, once=account, region="r", machines=machines, told_to_end=set()
    )
    ssh = Ssh(Path("/nowhere"), host="", port=22, user="root", identity_file=Path("/nowhere/key"))
    identity = dataclasses.replace(request().identity, name=name, details={"instance": "i-1"})
    Ec2Machine(identity, api, ssh).destroy(deadline=Deadline("destroy", 20))
    assert (account.ended, account.groups) == (["i-1"], [f"bo-{RUN}"])
    other.clear()
    states = iter(["running", "shutting-down"])
    Ec2Machine(identity, api, ssh).destroy(deadline=Deadline("destroy", 20))
    assert account.groups == []


def test_each_target_has_the_group_that_its_own_row_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever machine of the run came first: none lets in who may connect to another, and none is
    in a group of another network, or in somebody's own. So it is with the key."""
    from build_orchestrator.machine.ec2 import Ec2Provider

    account = Account()
    api: Any = SimpleNamespace(
        ec2=account, once=account, region="r", endpoint="", now=lambda: NOW, machines=lambda **_: []
    )
    monkeypatch.setattr(provider, "api_of", lambda *_: api)
    own, aws, purpose = {"security_group_id": "sg-own"}, Ec2Provider(), launch.purpose_of(request())

    def group(**options: str) -> str:
        place = tmp_path / "runs/bo/machine"
        limits = {"deadline": Deadline("boot", 20), "cancel": NEVER}
        row = request().distro, {"region": "r", **options}
        return aws.share(purpose, *row, place, **limits)[0].group_id  # type: ignore[arg-type]

    usual = f"sg-bo-{RUN}"
    assert (group(), group(allow_from="auto"), group(**own), group()) == (
        usual,
        usual,
        "sg-own",
        usual,
    )
    assert group(allow_from="10.0.0.0/8") == f"{usual}-10.0.0.0/8"
    assert group(subnet_id="subnet-1") == f"{usual}-vpc-of-subnet-1"
    with pytest.raises(Refused, match="r has no security group sg-lost") as raised:
        group(security_group_id="sg-lost")
    assert "correct launch.security_group_id" in raised.value.resolution
    assert set(account.let_in) == {
        (usual, "127.0.0.1/32"),
        (f"{usual}-10.0.0.0/8", "10.0.0.0/8"),
        (f"{usual}-vpc-of-subnet-1", "127.0.0.1/32"),
    }
    old = dataclasses.replace(request().distro, legacy=True)
    limits: Any = {"deadline": Deadline("boot", 20), "cancel": NEVER}
    made, key = aws.share(purpose, old, {"region": "r"}, tmp_path / "runs/bo/machine", **limits)
    assert (made.group_id, made.key_name, key.name) == (usual, f"bo-{RUN}-rsa", "id_rsa")
    account.behind = 3
    assert aws.close(deadline=Deadline("destroy", 20)) == ()
    assert (account.groups, account.keys) == ([], {}), "though AWS did not show them at first"
    monkeypatch.setattr(account, "create_security_group", MagicMock(side_effect=Interrupted(2)))
    with pytest.raises(Interrupted):
        group()
    assert account.keys
    account.behind = 3
    assert aws.close(deadline=Deadline("destroy", 20)) == ()
    assert not account.keys, "nor what was made before somebody asked to stop"


def test_nothing_is_asked_for_once_somebody_has_asked_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine is launched after a signal; and of many that wait for what they share, none asks
    an AWS that does not answer when its own time is up."""
    cancel, asked = Cancel(), []
    cancel.set(2)
    with pytest.raises(Interrupted):
        persist(lambda: asked.append(1), "launch", deadline=Deadline("boot", 20), cancel=cancel)
    monkeypatch.setattr(provider, "api_of", lambda *_: Api())
    monkeypatch.setattr(provider, "make_shared", lambda *_, **__: asked.append(2))
    row: Any = (launch.purpose_of(request()), request().distro, {"region": "r"}, tmp_path)
    for deadline, stop, error in (
        (Deadline("boot", 20), cancel, Interrupted),
        (Deadline("boot", 0), NEVER, DeadlineExceeded),
    ):
        with pytest.raises(error):
            provider.Ec2Provider().share(*row, deadline=deadline, cancel=stop)
    assert asked == []


def test_regions_that_ask_at_once_get_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def keygen(argv: list[str], **_: Any) -> Any:
        made.append(argv[-1])
        time.sleep(0.2)
        Path(f"{argv[-1]}.pub").write_text(f"key {len(made)}")
        return SimpleNamespace(check=lambda _: None)

    monkeypatch.setattr(shared, "run", keygen)
    way = launch.way_of(request().distro, "ssh", {})
    ask = (tmp_path / "id_ed25519", way, Deadline("boot", 20))
    with ThreadPoolExecutor() as pool:
        keys = {each.result() for each in [pool.submit(shared._public_key, *ask) for _ in "ab"]}
    assert (keys, len(made)) == ({"key 1"}, 1)


def test_nothing_secret_is_rendered() -> None:
    """What a person may read before a launch holds no key."""
    from build_orchestrator.machine.ec2 import Ec2Provider

    files = Ec2Provider().rendered(request(region="eu-west-1"))
    assert set(files) == {"launch.json", "user-data.sh"}
    assert json.loads(files["launch.json"])["ImageId"] == "ami-1"
    assert not re.search("PRIVATE KEY|AKIA|SECRET", "".join(files.values()))


@pytest.mark.parametrize("communicator", ["ssh", "winrm"])
def test_whoever_needs_no_password_is_not_asked_for_one(
    communicator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`build doctor` asks for what the project's own targets need."""
    api, ami = MagicMock(), ImageSource(ami="ami-1")
    monkeypatch.setattr(permissions, "api_of", lambda *_: api)
    monkeypatch.setattr(permissions, "_launch", lambda *_: lambda: None)
    distro = Distro(name="w", distribution="windows", release="2022", windows=True)
    target = SimpleNamespace(communicator=communicator, distro=distro, image=ami, name="w")
    asked = {each.action for each in permissions.examine("eu-west-1", "", [target])}  # type: ignore[list-item]
    assert (permissions.PASSWORD in asked) == (communicator == "winrm")
    assert {permissions.LAUNCH, *permissions.OURS} < asked


def test_the_how_to_shows_the_smallest_policy() -> None:
    """As `build doctor --provider aws` prints it."""
    text = (Path(__file__).parents[2] / "docs/how-to/aws.md").read_text()
    shown = json.loads(text.split("```json\n")[1].split("```")[0])
    assert shown == permissions.policy()
    assert "ssm:GetParameter" in permissions.actions_of(permissions.policy(parameters=True))


# --- images that were baked ---------------------------------------------------------------------


class Images:
    """As much of EC2 as removing an image asks for; it refuses one thing once."""

    def __init__(self) -> None:
        self.there = {"ami-1", "snap-1", "snap-2"}
        self.refuses = "snap-2"
        self.ec2 = self

    def describe_images(self, **_: Any) -> dict[str, Any]:
        disks = [{"Ebs": {"SnapshotId": each}} for each in ("snap-1", "snap-2")]
        image = {"ImageId": "ami-1", "BlockDeviceMappings": disks}
        return {"Images": [image] if "ami-1" in self.there else []}

    def deregister_image(self, ImageId: str) -> None:
        self.there.remove(ImageId)

    def delete_snapshot(self, SnapshotId: str) -> None:
        if SnapshotId == self.refuses:
            self.refuses = ""
            raise refused("UnauthorizedOperation", 403)
        if SnapshotId not in self.there:
            raise refused("InvalidSnapshot.NotFound")
        self.there.remove(SnapshotId)


def test_an_image_that_went_without_its_snapshots_is_removed_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AWS names its snapshots no more, so whoever made it remembers them."""
    account = Images()
    monkeypatch.setattr(images, "api_of", lambda *_: account)
    where: dict[str, Any] = {"region": "x", "endpoint": "", "deadline": Deadline("image", 5)}
    _, made = images.disks("ami-1", cancel=NEVER, **where)
    with pytest.raises(EnvironmentFailure):
        images.remove("ami-1", snapshots=made, **where)
    assert account.there == {"snap-2"}
    images.remove("ami-1", snapshots=made, **where)
    assert account.there == set()
