"""What a build of a Windows target is made of: its script and outputs, what cmd is given, how its
machine is launched. What cmd makes of it is in tests/real."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import re
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from build_orchestrator import command
from build_orchestrator.configuration import recipe_on
from build_orchestrator.configuration.files import text_of
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import EnvironmentFailure, UsageError
from build_orchestrator.machine.contract import MachineRequest
from build_orchestrator.machine.ec2 import launch
from build_orchestrator.machine.ec2.boot import connection_of, known_place
from build_orchestrator.machine.ec2.password import of_administrator
from build_orchestrator.machine.ec2.windows import certificate
from build_orchestrator.machine.vagrant.windows import prepare
from build_orchestrator.machine.windows import BEGIN, END
from build_orchestrator.model import (
    Build,
    Deadlines,
    Distro,
    Identity,
    Image,
    ImageSource,
    Naming,
    Output,
    Recipe,
    Size,
    Target,
)
from build_orchestrator.provision import gather_inputs, windows_script
from build_orchestrator.render import environment_file
from build_orchestrator.render.vagrantfile import SETUP, TEMPLATE, Described, single
from build_orchestrator.transport.ssh import Ssh
from build_orchestrator.transport.windows import WindowsSsh, batch, in_windows
from build_orchestrator.transport.winrm import Winrm

ROOT = Path(__file__).parents[2]

LINUX = Distro(name="debian_trixie", distribution="Debian", release="trixie")
WINDOWS = Distro(
    name="windows_2022",
    distribution="windows",
    release="2022",
    windows=True,
    ssh_user="Administrator",
)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHQfw6niWE/Ux9vhfuXKB7z8YUG6zOrimuFLifRNYjVY"
SHARED = launch.Shared(key_name="bo-1", group_id="sg-1", public_key=KEY)
RECIPE = Recipe(
    name="agent",
    script="make.sh",
    windows_script="a folder/make it.bat",
    inputs=("data",),
    outputs=(Output(name="made.tar.gz", members="cloudify/env/"),),
    windows_outputs=(Output(name="made.zip"),),
    destinations=("dist/",),
    secrets=("TOKEN",),
)


def build_of(**fields: Any) -> Build:
    target = Target(
        name="windows_2022_aws",
        distro=WINDOWS,
        provider="aws",
        image=ImageSource(),
        size=Size(),
        deadlines=Deadlines(),
    )
    known: dict[str, Any] = {
        "target": target,
        "recipe": recipe_on(RECIPE, WINDOWS),
        "naming": Naming(),
        "outputs": (),
        "environment": {"BUILD_TARGET": target.name, "MESSAGE": "50% & more"},
    }
    return Build(**(known | fields))


def request(distro: Distro, communicator: str = "ssh", **options: str) -> MachineRequest:
    return MachineRequest(
        identity=Identity(
            provider="aws", name="bo-1-w-1", run_uuid="1", target="w", attempt=1, folder="/x/y/z"
        ),
        distro=distro,
        image=Image(source="ami-1", sha256="", disk="ami-1"),
        size=Size(),
        limit_s=100,
        console=Path("console.txt"),
        communicator=communicator,
        options={"region": "eu-west-1", **options},
    )


def launched(distro: Distro, communicator: str = "ssh", **options: str) -> dict[str, Any]:
    asked = request(distro, communicator, **options)
    root = launch.Root(device="/dev/sda1", size_gib=30)
    return launch.parameters(asked, launch.place_of(asked), SHARED, root, now=0.0)


def test_a_recipe_has_the_script_and_the_outputs_of_its_system() -> None:
    """Where it names no outputs of its own for Windows, they are the same as elsewhere."""
    assert recipe_on(RECIPE, LINUX) is RECIPE
    found = recipe_on(RECIPE, WINDOWS)
    assert (found.script, found.outputs) == (RECIPE.windows_script, RECIPE.windows_outputs)
    same = recipe_on(dataclasses.replace(RECIPE, windows_outputs=()), WINDOWS)
    assert same.outputs == RECIPE.outputs
    with pytest.raises(UsageError, match="recipe agent has no windows_script"):
        recipe_on(dataclasses.replace(RECIPE, windows_script=""), WINDOWS)


def test_values_travel_apart_from_the_batch_file() -> None:
    """What is written to the machine's disk names no value at all."""
    head, _, text = windows_script(build_of(), {"TOKEN": "secret"}).partition(b"\n\n")
    assert head.decode().splitlines() == [
        "BUILD_TARGET=windows_2022_aws",
        "MESSAGE=50% & more",
        "TOKEN=secret",
        "BUILD_INPUTS=C:\\build\\inputs",
        "BUILD_OUTPUT=C:\\build\\output",
    ]
    assert text.decode().splitlines() == [
        'md "C:\\build\\output"',
        'cd /d "C:\\build\\inputs"',
        'cmd /d /q /c "".\\a folder\\make it.bat""',
    ]
    assert batch({}, "echo").startswith(b"\necho")


def test_a_value_that_cmd_cannot_hold_is_named_and_not_told() -> None:
    with pytest.raises(UsageError) as refused:
        windows_script(build_of(), {"TOKEN": "a secret\nof two lines"})
    assert refused.value.brief == "TOKEN cannot be given to a script on Windows"
    assert "a secret" not in str(refused.value)


def test_people_see_the_environment_in_the_words_of_cmd() -> None:
    """Windows' own variables stay, so none of Linux is set."""
    (name, text), *others = environment_file(build_of()).items()
    assert (name, others) == ("environment.bat", [])
    assert text.splitlines() == [
        "rem The environment of a folder/make it.bat in windows_2022_aws.",
        'set "BUILD_TARGET=windows_2022_aws"',
        'set "MESSAGE=50% & more"',
        "rem TOKEN: a secret, sent over standard input",
    ]


def test_what_the_host_trusts_comes_with_the_inputs(tmp_path: Path) -> None:
    """A bundle of certificates is no value that cmd could hold."""
    project, bundle = tmp_path / "project", tmp_path / "ca.pem"
    bundle.write_text("certificates")
    (project / "data").mkdir(parents=True)
    (project / "a folder").mkdir()
    (project / RECIPE.windows_script).write_text("rem")
    build = build_of(host_trust={"CA_BUNDLE": str(bundle), "http_proxy": "http://proxy:1"})
    into = tmp_path / "inputs"
    into.mkdir()
    gather_inputs(build, project, into)
    assert (into / "host-trust/ca.pem").read_text() == "certificates"
    assert (into / RECIPE.windows_script).read_text() == "rem"
    head = windows_script(build, {}).partition(b"\n\n")[0].decode().splitlines()
    assert "PIP_CERT=C:\\build\\inputs\\host-trust\\ca.pem" in head
    assert "http_proxy=http://proxy:1" in head


def test_a_path_counts_from_the_system_drive() -> None:
    assert in_windows(PurePosixPath("/build/a b")) == "C:\\build\\a b"


# --- on aws -------------------------------------------------------------------------------------


def test_windows_is_launched_without_a_key_pair() -> None:
    """AWS would have an RSA key, and give a password to whoever holds it. Ours is in user data."""
    linux, windows = launched(LINUX), launched(WINDOWS, port="2022")
    assert linux["KeyName"] == "bo-1"
    assert "KeyName" not in windows
    same = ("MetadataOptions", "InstanceInitiatedShutdownBehavior", "TagSpecifications")
    assert all(windows[name] == linux[name] for name in same)
    script = windows["UserData"]
    assert script.startswith("<script>\n")
    assert script.endswith("</script>\n")
    assert "shutdown /s /f /t 101\n" in script
    assert f'echo {KEY}>"%PLACE%\\administrators_authorized_keys"\n' in script
    assert "localport=2022 " in script
    assert not launch.host_keys(script), "the words around the keys are no keys"
    printed = f"RDP...\r\n{BEGIN}\r\n{KEY} comment\r\n{END}\r\nWindows is Ready to use\r\n"
    assert launch.host_keys(printed) == KEY


def test_winrm_is_told_to_listen_for_a_password_that_nobody_wrote_down() -> None:
    """The key pair is what AWS encrypts it with."""
    windows = launched(WINDOWS, "winrm")
    assert windows["KeyName"] == SHARED.key_name
    script = windows["UserData"]
    assert script.startswith("<script>\n")
    assert script.endswith("</script>\n")
    assert "shutdown /s /f /t 101\n" in script
    assert "localport=5986 " in script
    assert '>certificate.inf echo Subject="CN=%NAME%"\n' in script
    assert 'Transport=HTTPS @{Hostname="%NAME%";Port="5986";' in script, "or Windows refuses it"
    assert "sshd" not in script
    assert "localport=2022 " in launched(WINDOWS, "winrm", port="2022")["UserData"]
    assert not certificate(script)


def pem(content: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\r\n{content}\r\n-----END CERTIFICATE-----\r\n"


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("MIID\r\nAAEC", b"0\x82\x03\x00\x01\x02"),
        ("MIIDA", None),
        ("MI!ID", None),
        ("", None),
    ],
    ids=["whole", "cut", "damaged", "empty"],
)
def test_a_certificate_is_known_by_what_the_console_says_last(
    said: str, known: bytes | None
) -> None:
    console = f"RDP...\r\n{pem('AAAA')}{pem(said)}Windows is Ready to use\r\n"
    assert certificate(console) == (hashlib.sha256(known).hexdigest() if known else "")
    assert certificate(pem(said)[:-3]) == ""


@pytest.mark.parametrize(
    ("distro", "kind", "name"),
    [
        (LINUX, "ssh", "bo-1"),
        (dataclasses.replace(LINUX, legacy=True), "ssh", "bo-1-rsa"),
        (WINDOWS, "ssh", "bo-1"),
        (WINDOWS, "winrm", "bo-1-rsa"),
    ],
)
def test_each_way_of_talking_has_its_key_pair(distro: Distro, kind: str, name: str) -> None:
    """AWS encrypts a password with RSA alone, and old machines know no other key; everybody else
    has the better one. Who takes up a machine is told which."""
    way = launch.way_of(distro, kind, {})
    assert launch.key_name("1", way) == name
    key = "rsa" if name.endswith("rsa") else "ed25519"
    assert (way.key_kind, way.port) == (key, 5986 if kind == "winrm" else 22)
    assert launch.way_of(distro, kind, {"port": "99"}).port == 99
    asked = request(distro, kind)
    identity = dataclasses.replace(asked.identity, details=known_place(asked), folder="/s/r/m/bo-1")
    if isinstance(found := connection_of(identity), Ssh):
        assert found.identity_file.name == f"id_{key}"


def test_what_is_journalled_says_that_winrm_is_wanted() -> None:
    asked = request(WINDOWS, "winrm")
    found = connection_of(dataclasses.replace(asked.identity, details=known_place(asked)))
    assert isinstance(found, Winrm)
    assert (found.user, found.port) == ("Administrator", 5986)
    assert not found.check(), "who takes up a machine knows no password"


def test_a_password_is_read_with_the_key_of_the_run(tmp_path: Path) -> None:
    """And with no other. As long as the machine has told none, there is none."""
    for name in ("id_rsa", "other"):
        make = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048"]  # As ours.
        make += ["-N", "", "-f", str(tmp_path / name)]
        command.run(make, deadline=Deadline("key", 20)).check("ssh-keygen")
    public = load_ssh_public_key((tmp_path / "id_rsa.pub").read_bytes())
    assert isinstance(public, RSAPublicKey)
    encrypted = base64.b64encode(public.encrypt(b"a password", PKCS1v15())).decode()

    def read(said: str, key: str = "id_rsa") -> str:
        ec2 = SimpleNamespace(get_password_data=lambda **_: {"PasswordData": said})
        api = SimpleNamespace(ec2=ec2)
        return of_administrator(api, "i-1", tmp_path / key)  # type: ignore[arg-type]

    assert read(f"\r\n{encrypted}\r\n") == "a password"
    assert (read(""), read("\r\n")) == ("", "")
    # OpenSSL answers a wrong key with random bytes, so that nobody learns from its errors.
    with contextlib.suppress(EnvironmentFailure):
        assert read(encrypted, "other") != "a password"


@pytest.mark.parametrize(("distro", "kind"), [(LINUX, Ssh), (WINDOWS, WindowsSsh)])
def test_any_process_talks_to_a_machine_as_its_system_wants(
    distro: Distro, kind: type[Ssh]
) -> None:
    """What is journalled says which system it is. Nobody becomes root on Windows."""
    asked = request(distro, user="somebody")
    found = connection_of(dataclasses.replace(asked.identity, details=known_place(asked)))
    assert type(found) is kind
    assert isinstance(found, Ssh)
    assert found.become_root is (kind is Ssh)


def test_both_scripts_bring_the_same_readers() -> None:
    """What reads packager.yaml where the packager runs from source."""
    scripts = (ROOT / f"provision/{name}" for name in ("prerequisites.sh", "provision.windows.bat"))
    pattern = r"^(?:set \")?(PYYAML|PACKAGING)_VERSION=([\d.]+)"
    linux, windows = (re.findall(pattern, each.read_text(), re.MULTILINE) for each in scripts)
    assert len(linux) == 2
    assert linux == windows


# --- through Vagrant ----------------------------------------------------------------------------


@pytest.mark.parametrize(("communicator", "called"), [("winrm", "'winrm'"), ("ssh", '"winssh"')])
def test_vagrant_carries_one_batch_file_in(communicator: str, called: str) -> None:
    """By its own connection; it leaves no key of its own in a machine that gets ours."""
    described = Described(
        name="a-1",
        target="a",
        provider="virtualbox",
        box="b",
        size=Size(),
        boot_s=9,
        windows=True,
        communicator=communicator,
    )
    text = single(text_of(None, TEMPLATE), described)
    assert f"m.vm.communicator = {called}\n" in text
    assert "m.ssh.insert_key = m.winssh.insert_key = false\n" in text
    assert f"upload(File.join(__dir__, '{SETUP}'), \"C:/build-orchestrator.bat\")" in text
    assert "show = 'cmd /d /q /c C:\\build-orchestrator.bat'\n" in text


def test_the_batch_file_ends_what_everybody_knows(tmp_path: Path) -> None:
    """One key for ssh, wherever sshd looks for keys."""
    prepare(tmp_path, 50, Deadline("boot", 20), NEVER)
    lines = (tmp_path / SETUP).read_bytes().decode().split("\r\n")
    public = (tmp_path / "id_ed25519.pub").read_text().strip()
    for place in (
        "%PLACE%\\administrators_authorized_keys",
        "%USERPROFILE%\\.ssh\\authorized_keys",
    ):
        assert f'echo {public}>"{place}"' in lines
    assert "shutdown /s /f /t 51" in lines
    end = lines.index("call :keys")
    assert lines[end : end + 3] == ["call :keys", 'del "%~f0" & exit /b 0', ":keys"]
