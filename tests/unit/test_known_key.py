"""With which key Packer logs in to a public box: one that both it and the box can use."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from build_orchestrator.configuration import load
from build_orchestrator.errors import HostNotReady
from build_orchestrator.image import packer
from build_orchestrator.image.known_key import ED25519, RSA, check_logins, known_key
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.model import ImageSource, Target

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path))
    return tmp_path


def target(name: str) -> Target:
    return load(ROOT, providers=frozenset(PROVIDERS)).targets[name]


def give(home: Path, *keys: str) -> None:
    for name in keys:
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).touch()


@pytest.mark.parametrize(
    ("version", "keys", "name", "chosen"),
    [
        # Every box knows the RSA key, and not every one the other.
        ("1.8.1", (RSA,), "debian_bookworm_libvirt", RSA),
        ("1.16.0", (RSA, ED25519), "debian_bookworm_libvirt", RSA),
        ("1.16.0", (RSA, ED25519), "debian_bookworm_virtualbox", RSA),
        ("1.6.6", (RSA, ED25519), "debian_bookworm_libvirt", ED25519),
        ("1.8.0", (RSA, ED25519), "debian_bookworm_libvirt", ED25519),
        # What has had no support for years takes SHA-1.
        ("1.6.6", (RSA,), "debian_jessie_libvirt", RSA),
    ],
)
def test_the_key_is_one_that_both_can_use(
    version: str,
    keys: tuple[str, ...],
    name: str,
    chosen: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packer, "version", lambda: version)
    give(home, *keys)
    assert known_key(target(name)) == home / chosen
    check_logins([target(name)])


def test_a_packer_that_is_too_old_is_named_with_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "version", lambda: "1.6.6")
    give(home, RSA)
    with pytest.raises(HostNotReady) as caught:
        check_logins([target("debian_jessie_libvirt"), target("debian_bookworm_libvirt")])
    assert "Packer 1.6.6 is too old to log in to the box of debian_bookworm_libvirt" in str(
        caught.value
    )
    assert "Install Packer 1.8.1 or later" in caught.value.resolution


def test_who_needs_no_known_key_is_not_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer, "version", lambda: "1.6.6")
    give(home, RSA)
    box = target("debian_bookworm_libvirt")
    made_here = dataclasses.replace(box, image=ImageSource(bootstrap="bookworm"))
    check_logins([made_here, target("debian_bookworm_qemu"), target("debian_bookworm_aws")])


def test_before_vagrant_was_ever_called_nothing_is_known(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first call, for the box, makes the key; nothing has booted then."""
    monkeypatch.setattr(packer, "version", lambda: "1.6.6")
    check_logins([target("debian_bookworm_libvirt")])
    with pytest.raises(HostNotReady, match="has no insecure_private_key"):
        known_key(target("debian_bookworm_libvirt"))
    assert not list(home.iterdir())
