"""The targets of this repository's own targets.yaml."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from build_orchestrator.configuration import load
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.machine.ec2.launch import kinds_of
from build_orchestrator.plan import make_plan

MATRIX = load(Path(__file__).parents[2], providers=frozenset(PROVIDERS))
GRAVITON = re.compile(r"[a-z]+\d+g[a-z]*\.")
"""AWS calls its machines of arm64 so, such as t4g.medium."""


def test_every_distro_with_support_is_there_for_both_processors() -> None:
    """On aws; the one differs from the other in nothing but its processor."""
    both = {"debian_bullseye", "debian_bookworm", "debian_trixie", "ubuntu_jammy", "ubuntu_noble",
            "rocky_8", "rocky_9", "almalinux_9", "amazonlinux_2023", "opensuse_leap"}  # fmt: skip
    known = [each for each in MATRIX.distros.values() if not (each.legacy or each.windows)]
    assert {each.name for each in known} == both | {f"{name}_arm64" for name in both}
    for name in both:
        one, other = (MATRIX.targets[f"{each}_aws"] for each in (name, f"{name}_arm64"))
        renamed = dataclasses.replace(one.distro, name=f"{name}_arm64", arch="arm64")
        assert other.distro == renamed
        assert one.options["user"] == other.options["user"]
        assert one.image.ami_owner == other.image.ami_owner
        pattern = re.sub("amd64|x86_64", "arm64", one.image.ami_name)
        assert other.image.ami_name.replace("aarch64", "arm64") == pattern != one.image.ami_name


def test_every_machine_has_the_processor_of_its_distro() -> None:
    """Nothing but aws has machines of arm64, and there the type decides."""
    for target in MATRIX.targets.values():
        is_arm = target.distro.arch == "arm64"
        if target.provider == "aws":
            assert {bool(GRAVITON.match(kind)) for kind in kinds_of(target.options)} == {is_arm}
        else:
            assert not is_arm


def test_the_originals_keep_their_names() -> None:
    """What was built on before; without support, and where their boxes and images are."""
    legacy = [each.name for each in MATRIX.targets.values() if each.distro.legacy]
    for distro in (
        "debian_jessie",
        "ubuntu_precise",
        "ubuntu_trusty",
        "centos_final",
        "centos_core",
    ):
        assert {f"{distro}_virtualbox", f"{distro}_aws"} <= set(legacy)
    assert "windows_2012_virtualbox" in legacy


def test_what_is_allowed_for_old_machines_any_ssh_knows() -> None:
    """A host with OpenSSH before 8.5 refuses a configuration with a name that it does not know."""
    legacy = [each for each in MATRIX.distros.values() if each.legacy and not each.windows]
    names = {option.partition("=")[0] for each in legacy for option in each.ssh_options}
    assert names == {"PubkeyAcceptedKeyTypes", "HostKeyAlgorithms"}
    assert all(each.ssh_options for each in legacy)


def test_artifacts_of_another_processor_say_so() -> None:
    """With the architecture in the release, so that all targets of a distro can be published. Only
    agents for Windows are called alike, as file servers want them."""
    targets = (each for each in MATRIX.targets.values() if each.provider == "aws")
    several = {f"windows_{year}_aws" for year in (2012, 2019, 2025)}
    plan = make_plan(
        MATRIX,
        [each.name for each in targets if each.name not in several],
        run_id="",
        run_uuid="",
        created_at="",
        jobs=1,
        settings={"VERSION": "7.1"},
    )
    names = {build.name: build.outputs[0].name for build in plan.builds}
    assert names["debian_bookworm_aws"] == "Debian-bookworm-agent_7.1.tar.gz"
    assert names["debian_bookworm_arm64_aws"] == "Debian-bookworm-arm64-agent_7.1.tar.gz"
    assert names["amazonlinux_2023_arm64_aws"] == "AmazonLinux-2023-arm64-agent_7.1.tar.gz"
