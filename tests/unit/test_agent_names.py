"""How agents are called."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from build_orchestrator.agent.config import Config
from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.names import archive_name, distribution_and_release, os_release


@pytest.mark.parametrize(
    ("text", "machine", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm', "x86_64", ("Debian", "bookworm")),
        ('ID=debian\nVERSION_ID="8"\nVERSION="8 (jessie)"', "x86_64", ("Debian", "jessie")),
        ("ID=debian\nVERSION_CODENAME=trixie", "aarch64", ("Debian", "trixie-arm64")),
        ('ID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"',
         "aarch64", ("AmazonLinux", "2023-arm64")),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION="24.04 LTS (Noble Numbat)"\nVERSION_CODENAME=noble',
         "x86_64", ("Ubuntu", "noble")),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"', "x86_64", ("Rocky", "9")),
        ('VERSION="7 (Core)"\nID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"',
         "x86_64", ("CentOS", "core")),
        ('VERSION="7.9 (Maipo)"\nID="rhel"\nID_LIKE="fedora"\nVERSION_ID="7.9"',
         "x86_64", ("RedHat", "maipo")),
        ('VERSION="8.10 (Ootpa)"\nID="rhel"\nID_LIKE="fedora"\nVERSION_ID="8.10"',
         "x86_64", ("RedHat", "8")),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"',
         "x86_64", ("openSUSE", "15.6")),
    ],
)  # fmt: skip
def test_distribution_and_release_come_from_the_machine(
    tmp_path: Path, text: str, machine: str, expected: tuple[str, str]
) -> None:
    """A codename, as far as Managers know it, else the release; another architecture is added."""
    (tmp_path / "os-release").write_text(text)

    about = os_release((str(tmp_path / "none"), str(tmp_path / "os-release")))

    assert distribution_and_release(about, machine) == expected


def test_a_machine_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    """Has a number of its own, and a way out."""
    with pytest.raises(PackagerError) as raised:
        os_release((str(tmp_path / "none"),))
    assert raised.value.code == Code.COULD_NOT_IDENTIFY_DISTRIBUTION
    assert "distribution and release" in raised.value.resolution


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "Ubuntu-trusty-agent.tar.gz"),
        ({"version": "3.3.0", "milestone": "m4", "build": "666"},
         "Ubuntu-trusty-agent_3.3.0-m4-b666.tar.gz"),
        ({"version": "3.3.0", "build": "666"}, "Ubuntu-trusty-agent_3.3.0-b666.tar.gz"),
        ({"milestone": "m4", "build": "666"}, "Ubuntu-trusty-agent.tar.gz"),
        ({"distribution": "Debian GNU/Linux"}, "Debian-GNU-Linux-trusty-agent.tar.gz"),
        ({"version": "7.1_rc 1"}, "Ubuntu-trusty-agent_7.1-rc-1.tar.gz"),
        ({"output_tar": "mine.tar.gz", "version": "1"}, "mine.tar.gz"),
    ],
)  # fmt: skip
def test_the_name_rule(given: dict[str, Any], expected: str) -> None:
    """The original rule, with what a file name cannot hold made safe."""
    config = Config(**{"distribution": "Ubuntu", "release": "trusty", **given})
    assert archive_name(config) == expected


def test_a_manager_finds_the_machine_in_a_versioned_name() -> None:
    """It cuts at the last _, so there is none in a version."""
    config = Config(distribution="Ubuntu", release="trusty", version="7_0", build="a_b")
    name = archive_name(config)

    assert re.sub(r"\.tar\.gz$", "", name).rpartition("_")[0].lower() == "ubuntu-trusty-agent"
