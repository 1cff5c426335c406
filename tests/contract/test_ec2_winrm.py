"""How a Windows machine of AWS comes to be trusted by WinRM: by what AWS says, as `Boot` hears it.
The whole of it, on the EC2 stand-in, is in tests/real/test_aws_windows.py."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from build_orchestrator.command import run
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import DeadlineExceeded, EnvironmentFailure, MachineLost
from build_orchestrator.machine.contract import MachineRequest, silent
from build_orchestrator.machine.ec2 import boot as module
from build_orchestrator.machine.ec2.boot import Boot
from build_orchestrator.machine.ec2.launch import seen
from build_orchestrator.machine.ec2.machine import Ec2Machine
from build_orchestrator.machine.ec2.shared import user_key
from build_orchestrator.model import Distro, Identity, Image, Size
from build_orchestrator.transport.winrm import Winrm
from tests.standins import winrm

pytestmark = pytest.mark.real  # Keys of RSA take too long for fast tests.

PASSWORD = "a planted password"
SH = ["sh", "-c", 'eval "$*"', "sh"]


@dataclass
class Api:
    """AWS, which knows neither certificate nor password at first."""

    certificate: str
    """As the machine prints it."""
    encrypted: str
    region: str = "eu-west-1"
    consoles: int = 0
    passwords: int = 0
    console_refused: str = ""
    ec2: Any = field(init=False)

    def __post_init__(self) -> None:
        self.ec2 = self

    def console(self, _: str) -> str:
        self.consoles += 1
        return self.certificate if self.consoles > 1 else "starting\r\n"

    def get_password_data(self, InstanceId: str) -> dict[str, str]:
        assert (InstanceId, self.consoles) == ("i-1", 2), "first of all, whom do we talk to?"
        self.passwords += 1
        return {"PasswordData": self.encrypted if self.passwords > 1 else ""}


@dataclass
class Bench:
    """A service, and what AWS says of it."""

    server: winrm.Server
    api: Api
    boot: Boot
    machine: Ec2Machine
    winrm: Winrm

    def open(self) -> None:
        self.boot._open_winrm(self.machine, self.winrm)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a service."""
    folder = tmp_path_factory.mktemp("winrm")
    winrm.prepare(folder, PASSWORD, SH, {"PATH": "/usr/bin:/bin"}, folder)
    return folder


@pytest.fixture
def bench(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(module, "CONSOLE_PAUSE_S", 0.1)
    identity = Identity(
        provider="aws",
        name="bo-1-w-1",
        run_uuid="1",
        target="w",
        attempt=1,
        folder=str(tmp_path / "run/machines/bo-1-w-1"),
        details={"instance": "i-1"},
    )
    key = user_key(Path(identity.folder), "rsa")
    key.parent.mkdir(parents=True)
    keygen = ["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(key)]
    run(keygen, deadline=Deadline("key", 30)).check("ssh-keygen")
    public = load_ssh_public_key(key.with_name("id_rsa.pub").read_bytes())
    assert isinstance(public, RSAPublicKey)
    encrypted = base64.b64encode(public.encrypt(PASSWORD.encode(), PKCS1v15())).decode()
    api = Api((made / winrm.CERTIFICATE).read_text(), encrypted)
    with winrm.serving(made) as server:
        connection = Winrm(tmp_path, host="127.0.0.1", port=server.server_port, user=winrm.USER)
        console = tmp_path / "console.txt"
        request = MachineRequest(
            identity=identity,
            distro=Distro(name="w", distribution="windows", release="2022", windows=True),
            image=Image(source="ami-1", sha256="", disk="ami-1"),
            size=Size(),
            limit_s=100,
            console=console,
            communicator="winrm",
        )
        nothing: Any = None
        known: Any = api
        boot = Boot(
            request=request,
            api=known,
            watch=nothing,
            shared=nothing,
            deadline=Deadline("boot", 20),
            cancel=NEVER,
            identified=lambda _: None,
            notify=silent,
            outlives=lambda: None,
        )
        machine = Ec2Machine(identity, known, connection, console=console)
        yield Bench(server, api, boot, machine, connection)


def test_certificate_and_password_come_from_aws_alone(bench: Bench) -> None:
    """Each is asked for until the machine has told it; only then is the machine talked to."""
    bench.open()

    assert (bench.api.consoles, bench.api.passwords) == (2, 2)
    assert bench.machine.host_key == "console"
    assert bench.winrm.check()
    assert bench.server.requests > 0
    found = [each for each in bench.winrm.folder.rglob("*") if each.is_file()]
    assert not [each for each in found if PASSWORD.encode() in each.read_bytes()]


def test_who_is_somebody_else_hears_no_password(bench: Bench) -> None:
    bench.api.certificate = "-----BEGIN CERTIFICATE-----\r\nAAAA\r\n-----END CERTIFICATE-----"
    with pytest.raises(EnvironmentFailure, match="does not show the certificate"):
        bench.open()
    assert bench.server.requests == 0


@pytest.mark.parametrize(
    ("missing", "words"),
    [("certificate", "the certificate of WinRM"), ("encrypted", "the password of the machine")],
)
def test_what_aws_never_knows_is_named(missing: str, words: str, bench: Bench) -> None:
    setattr(bench.api, missing, "")
    bench.boot.deadline = Deadline("boot", 1)
    with pytest.raises(DeadlineExceeded, match=f"AWS to know {words}"):
        bench.open()
    assert bench.server.requests == 0


def test_a_machine_that_ends_meanwhile_is_not_waited_for(bench: Bench) -> None:
    bench.api.certificate = ""
    ended = {"InstanceId": "i-1", "State": {"Name": "terminated"}, "StateReason": {"Code": "why"}}
    bench.machine.died(seen(ended))
    with pytest.raises(MachineLost):
        bench.open()
