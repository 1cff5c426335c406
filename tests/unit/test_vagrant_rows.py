"""What Vagrant says is read whatever stands around it, and its errors are told apart by class."""

from __future__ import annotations

from pathlib import Path

import pytest

from build_orchestrator.errors import EnvironmentFailure, HostNotReady, OrchestratorError
from build_orchestrator.machine.vagrant.failures import failure
from build_orchestrator.machine.vagrant.rows import errors, providers, row, states

SAID = """\
/usr/lib/ruby/vendor_ruby/rubygems.rb:1: warning: something is deprecated, and so on
==> vagrant: A new version of Vagrant is available: 2.4.9 (installed version: 2.3.4)!
1424099027,db,provider-name,libvirt
1424099027,web-1,metadata,provider,virtualbox
1424099027,web-1,provider-name,virtualbox
1424099027,db,state,shutoff
1424099027,web-1,state,running
1424099027,web-1,state-human-long,It runs. To stop it%!(VAGRANT_COMMA) you can\\nhalt it
1424099027,,ui,info,Current machine states:\\n\\nweb-1%!(VAGRANT_COMMA) db
1424099027,,error-exit,VagrantPlugins::X::Errors::DomainError,It broke%!(VAGRANT_COMMA)\\ntwice.,x
1424099027,only,three
"""


def test_what_is_said_is_read_whatever_stands_around_it() -> None:
    """Warnings, banners, mixed machines, an error row, and names with a dash."""
    rows = [row(line) for line in SAID.splitlines()]

    assert states(rows) == {"db": "shutoff", "web-1": "running"}
    assert providers(rows) == {"db": "libvirt", "web-1": "virtualbox"}
    assert list(errors(rows)) == [("VagrantPlugins::X::Errors::DomainError", "It broke,\ntwice.,x")]


def test_people_read_what_is_for_people() -> None:
    """Lines that are no rows, and what Vagrant says itself, unescaped."""
    said = [each.text for line in SAID.splitlines() if (each := row(line)).text]

    assert said[0].endswith("deprecated, and so on")
    assert "Current machine states:\n\nweb-1, db" in said
    assert not any("state-human" in each or "1424099027" in each for each in said)


@pytest.mark.parametrize(
    ("kind", "expected", "words"),
    [
        ("Vagrant::Errors::ProviderNotFound", HostNotReady, "build doctor"),
        ("Vagrant::Errors::BoxChecksumMismatch", HostNotReady, "image.sha256"),
        ("Vagrant::Errors::VMBootTimeout", EnvironmentFailure, "boot_s"),
        ("VagrantPlugins::X::Errors::ForwardPortCollision", EnvironmentFailure, "another"),
        ("Vagrant::Errors::MachineLocked", EnvironmentFailure, "try again"),
        ("Somebody::Elses::Error", EnvironmentFailure, "console.txt"),
    ],
)
def test_an_error_is_told_apart_by_its_class(
    kind: str, expected: type[OrchestratorError], words: str
) -> None:
    """What a second try would meet again is this host's; the rest may pass."""
    found = failure("vagrant up", [(kind, "No.")], "", [])

    assert type(found) is expected
    assert kind.rpartition("::")[2] in found.brief
    assert words in found.resolution


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("The requested URL returned error: 404", HostNotReady),
        ("The requested URL returned error: 410 Gone", HostNotReady),
        ("The requested URL returned error: 503", EnvironmentFailure),
        ("Failed to connect to box.example port 404 after 12 ms", EnvironmentFailure),
    ],
)
def test_a_box_that_nobody_has_is_not_a_catalogue_that_does_not_answer(
    said: str, expected: type[OrchestratorError]
) -> None:
    """Vagrant calls both the same; the server's status tells them apart."""
    words = f'The box could not be found.\n\nURL: ["https://box.example/404/x"]\nError: {said}'
    found = failure("vagrant box add", [("Vagrant::Errors::BoxAddShortNotFound", words)], "", [])

    assert type(found) is expected


def test_a_full_disk_explains_any_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence comes before what was said."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 20})())
    found = failure("vagrant up", [("X::ProviderNotFound", "No.")], "", [tmp_path])

    assert isinstance(found, EnvironmentFailure)
    assert f"{tmp_path} is full" in found.brief
