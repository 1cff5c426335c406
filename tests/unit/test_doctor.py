"""What this host lacks is said at once, with the way to get it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from build_orchestrator import doctor
from build_orchestrator.configuration import load
from build_orchestrator.doctor import Check, _target, default_jobs, require, working_providers
from build_orchestrator.doctor.check import PACKAGES
from build_orchestrator.errors import HostNotReady
from build_orchestrator.model import Flavour, ImageSource, Naming, Plan, Size
from build_orchestrator.plan import make_plan

TARGETS = """
schema: 1
default_provider: qemu
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers:
      fake: {}
      qemu: {image: {bootstrap: bookworm}}
      libvirt: {image: {box: debian/bookworm64, version: 12.0.1}}
recipes:
  agent: {script: make.sh, outputs: [{name: agent.txt}]}
"""


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without a single program, and with folders of our own."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def plan_of(folder: Path, selector: str) -> Plan:
    (folder / "targets.yaml").write_text(TARGETS)
    (folder / "make.sh").touch()
    providers = frozenset({"fake", "qemu", "libvirt"})
    return make_plan(
        load(folder, providers=providers, default_provider="qemu"),
        (selector,),
        run_id="r",
        run_uuid="0" * 32,
        created_at="now",
        jobs=1,
        naming=Naming(),
    )


def test_the_fake_needs_nothing(host: Path) -> None:
    """A plan is not held up by what it does not use."""
    require(plan_of(host, "debian_bookworm_fake"))


def test_everything_that_is_missing_is_said_at_once(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each missing program has the command that installs it, once."""
    monkeypatch.setattr(doctor.shutil, "which", lambda *_, **__: None)  # type: ignore[attr-defined]
    with pytest.raises(HostNotReady) as caught:
        require(plan_of(host, "debian_bookworm_qemu"))
    for command in ("qemu-system-x86_64", "qemu-img", "ssh-keygen", "mmdebstrap", "mke2fs"):
        assert f"{command}: not installed" in caught.value.details
        assert f"apt-get install {PACKAGES[command]}" in caught.value.resolution
    assert caught.value.resolution.count("openssh-client") == 1


def test_an_image_file_must_be_there(host: Path) -> None:
    """A path that leads nowhere is found before anything starts."""
    plan = plan_of(host, "debian_bookworm_qemu")
    (build,) = plan.builds
    target = dataclasses.replace(build.target, image=ImageSource(path="disk.qcow2", sha256="0"))
    plan = dataclasses.replace(plan, builds=(dataclasses.replace(build, target=target),))
    with pytest.raises(HostNotReady, match=r"disk\.qcow2: there is no such file"):
        require(plan)


@pytest.mark.parametrize("blocked", ["state", "cache"])
def test_a_folder_that_cannot_be_made(host: Path, blocked: str) -> None:
    """The folder is named, and what to set."""
    (host / blocked).touch()
    with pytest.raises(HostNotReady) as caught:
        require(plan_of(host, "debian_bookworm_fake"))
    assert f"{blocked} folder: {host / blocked}" in caught.value.details
    assert "XDG_STATE_HOME" in caught.value.resolution


@pytest.mark.parametrize(
    ("checks", "providers"),
    [
        ([], ("qemu",)),
        ([Check(name="a", ok=True, finding="", provider="qemu")], ("qemu",)),
        ([Check(name="a", ok=False, finding="", provider="qemu")], ()),
        ([Check(name="a", ok=False, finding="")], ()),
        ([Check(name="a", ok=False, finding="", provider="other")], ("qemu",)),
        ([Check(name="a", ok=True, finding="", provider="libvirt")], ("qemu", "libvirt")),
        ([Check(name="a", ok=False, finding="", provider="libvirt")], ("qemu",)),
    ],
)
def test_a_provider_works_when_nothing_stands_against_it(
    checks: list[Check], providers: tuple[str, ...]
) -> None:
    """What fails for all fails for each; what another one lacks is no matter."""
    assert working_providers(checks) == providers


@pytest.mark.parametrize(
    ("content", "found"),
    [("someone:100000:65536\n", True), ("someone2:1:1\n", False), ("", False), (None, False)],
)
def test_sub_ids_are_those_of_the_user(host: Path, content: str | None, found: bool) -> None:
    """A range of somebody with a similar name is not ours, and a missing file has none."""
    path = host / "subuid"
    if content is not None:
        path.write_text(content)
    assert doctor._has_range(path, "someone") is found


def test_there_is_always_room_for_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many machines as cores and memory carry, and never none."""
    monkeypatch.setattr(doctor, "available_memory_mib", lambda: 8192)
    cores = doctor.os.cpu_count() or 1  # type: ignore[attr-defined]
    assert default_jobs([Size(memory_mib=1024)]) == min(cores, 6)
    assert default_jobs([Size(memory_mib=1024), Size(memory_mib=6144)]) == 1
    assert default_jobs([Size(memory_mib=1 << 20)]) == 1
    assert default_jobs([]) == min(cores, 6)


@pytest.mark.parametrize(
    ("provider", "legacy", "words"),
    [("virtualbox", False, "Vagrant has no WinRM"), ("aws", True, "too old")],
)
def test_windows_that_nobody_could_talk_to_is_refused_before_anything_starts(
    provider: str, legacy: bool, words: str, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("build_orchestrator.machine.vagrant.ready.WINRM", ())
    plan = plan_of(host, "debian_bookworm_fake")
    (build,) = plan.builds
    distro = dataclasses.replace(build.target.distro, windows=True, legacy=legacy)
    target = dataclasses.replace(
        build.target, provider=provider, distro=distro, communicator="winrm"
    )
    windows = dataclasses.replace(plan, builds=(dataclasses.replace(build, target=target),))
    with pytest.raises(HostNotReady, match=words):
        require(windows)


def test_our_own_winrm_needs_none_of_vagrant(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build_orchestrator.machine.vagrant.ready.WINRM", ())
    plan = plan_of(host, "debian_bookworm_fake")
    target = plan.builds[0].target
    distro = dataclasses.replace(target.distro, windows=True)
    ours = dataclasses.replace(target, provider="aws", distro=distro, communicator="winrm")
    assert _target(ours).ok
    assert not _target(dataclasses.replace(ours, provider="virtualbox")).ok


@pytest.mark.parametrize(
    ("version", "provider", "experimental", "fits"),
    [
        ("2.3.7", "virtualbox", "", False),
        ("2.3.7", "hyperv", "typed_triggers", False),
        ("2.3.7", "virtualbox", "typed_triggers,disks", True),
        ("2.3.7", "virtualbox", "1", True),
        ("2.3.7", "libvirt", "", True),
        ("2.4.0", "virtualbox", "", True),
        ("2.10.0", "virtualbox", "", True),
        ("of our own", "virtualbox", "", True),
    ],
)
def test_a_disk_that_vagrant_would_not_make_is_refused(
    version: str,
    provider: str,
    experimental: str,
    fits: bool,
    host: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would boot with its box's, and say so in a log that nobody reads."""
    (host / "nothing").mkdir()
    vagrant = host / "nothing/vagrant"
    vagrant.write_text(f"#!/bin/sh\necho Vagrant {version}\n")
    vagrant.chmod(0o755)
    monkeypatch.setenv("VAGRANT_EXPERIMENTAL", experimental)
    plan = plan_of(host, "debian_bookworm_fake")
    (build,) = plan.builds
    target = dataclasses.replace(build.target, provider=provider, size=Size(disk_mib=20000))
    assert _target(target).ok == fits
    assert _target(dataclasses.replace(target, size=Size(disk_mib=0))).ok
    plan = dataclasses.replace(plan, builds=(dataclasses.replace(build, target=target),))
    with pytest.raises(HostNotReady) as caught:
        require(plan)  # This host lacks more.
    assert ("ignores disk_mib" in caught.value.details) != fits


def baked(host: Path, provider: str, **trust: str) -> Plan:
    """A plan whose image is to be baked."""
    plan = plan_of(host, f"debian_bookworm_{provider}")
    flavour = Flavour(name="plain", script="make.sh")
    build = dataclasses.replace(plan.builds[0], flavour=flavour, host_trust=trust)
    return dataclasses.replace(plan, builds=(build,))


@pytest.mark.parametrize(
    ("name", "value", "way"),
    [
        ("PIP_INDEX_URL", "https://h.example/{{x", "write %7B%7B for {{ in an address"),
        ("https_proxy", "http://me:hid{{den@h.example", "write %7B%7B for {{ in an address"),
        ("SSL_CERT_FILE", "a{{/ca.pem", "CA_BUNDLE: choose another path"),
        ("XDG_CACHE_HOME", "a{{", "XDG_CACHE_HOME: choose another path"),
    ],
)
def test_a_value_that_packer_would_take_for_its_own_words_is_refused(
    name: str, value: str, way: str, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything starts, and without the value; and only where Packer would be given it."""
    (host / "a{{").mkdir()
    (host / "a{{/ca.pem").touch()
    monkeypatch.setenv(name, value if "://" in value else str(host / value))
    shown = {"SSL_CERT_FILE": "CA_BUNDLE"}.get(name, name)
    asked_for = baked(host, "qemu", **{shown: "***"})
    with pytest.raises(HostNotReady) as caught:
        require(asked_for, baking=True)
    assert f"{shown}: holds {{{{, which Packer takes for its own words" in caught.value.details
    assert way in caught.value.resolution
    assert "hid" not in str(caught.value)
    with pytest.raises(HostNotReady) as caught:  # It has no tools either.
        require(asked_for)
    assert "Packer takes" not in caught.value.details
    if shown != "XDG_CACHE_HOME":
        with pytest.raises(HostNotReady) as caught:
            require(baked(host, "qemu"), baking=True)
        assert "Packer takes" not in caught.value.details


def test_baking_for_libvirt_needs_no_libvirt(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packer's QEMU makes what libvirt will boot: the daemon may be off, or its client missing."""
    monkeypatch.setattr("build_orchestrator.machine.vagrant.ready.PLUGINS", (str(host),))
    (host / "nothing").mkdir()
    said = {"packer": "Packer v1.9.0", "vagrant": "Vagrant 2.4.0"}
    tools = ("ssh", "qemu-img", "qemu-system-x86_64", "debugfs", "timeout")
    for name in (*said, *tools):
        (host / "nothing" / name).write_text(f"#!/bin/sh\necho {said.get(name, '')}\n")
        (host / "nothing" / name).chmod(0o755)
    plan = baked(host, "libvirt")
    require(plan, baking=True, booting=False)
    (host / "nothing/qemu-system-x86_64").unlink()
    with pytest.raises(HostNotReady) as caught:
        require(plan, baking=True, booting=False)
    assert caught.value.details == "qemu-system-x86_64: not installed; needed to bake images"
    (host / "nothing/virsh").write_text("#!/bin/sh\necho no daemon >&2\nexit 1\n")
    (host / "nothing/virsh").chmod(0o755)
    with pytest.raises(HostNotReady, match="systemctl start libvirtd"):
        require(plan, baking=True)
