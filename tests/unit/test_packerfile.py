"""packerfile.json: every value is quoted, every provider has its builder, nothing is secret; and
exactly those images are stale that depend on what has changed."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import msgspec
import pytest
import yaml

from build_orchestrator.cli.images import _builds
from build_orchestrator.configuration import load
from build_orchestrator.configuration.files import text_of
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import ConfigurationError, UsageError
from build_orchestrator.image import bake_base, baked
from build_orchestrator.image import bake_inputs as module
from build_orchestrator.image.bake_base import Place, variables_of
from build_orchestrator.image.bake_inputs import bake_inputs, rendered
from build_orchestrator.image.baked import Baked, choose
from build_orchestrator.image.lock import known_images, write_baked
from build_orchestrator.inputs import key_of
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.machine.ec2 import images as ec2_images
from build_orchestrator.machine.ec2 import launch
from build_orchestrator.machine.fake import FakeProvider
from build_orchestrator.model import Image
from build_orchestrator.render.packerfile import (
    INSIDE,
    MAKING,
    TEMPLATE,
    TRUST,
    part_of,
    path_of,
    quoted,
)

ROOT = Path(__file__).parents[2]
LIMIT = Deadline("image", 60)
NASTY = 'b"k\\w{{ env `HOME` }}'
TARGETS: dict[str, Any] = {
    "schema": 1,
    "defaults": {"recipe": "small", "launch": {"region": "eu-west-1", "user": "admin"}},
    "distros": {
        "debian_one": {
            "distribution": "Debian",
            "release": "one",
            "providers": {
                "qemu": {"image": {"bootstrap": "bookworm"}},
                "libvirt": {"image": {"bootstrap": "bookworm"}},
                "virtualbox": {"image": {"box": "debian/bookworm64", "version": "12.1"}},
                "aws": {"image": {"ami_name": NASTY, "ami_owner": "self"}},
            },
        },
        "debian_two": {
            "distribution": "Debian",
            "release": "two",
            "providers": {"qemu": {"image": {"path": "disk.qcow2", "sha256": "a" * 64}}},
        },
        "windows_2022": {
            "distribution": "windows",
            "release": "2022",
            "windows": True,
            "providers": {"libvirt": {"image": {"box": "w/w", "version": "1"}}},
        },
    },
    "flavours": {
        "plain": {"script": "install.sh"},
        "docker": {"script": "install.sh", "packages": ["docker.io"], "distros": ["debian_one"]},
    },
    "recipes": {
        "small": {"script": "make.sh", "flavour": "plain", "outputs": [{"name": "out.txt"}]}
    },
}


class Project:
    """A project in a folder, and a cache with an image for each of its targets and flavours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content: dict[str, Any] = json.loads(json.dumps(TARGETS))
        self.bases: dict[str, str] = {}
        (folder / "make.sh").write_text("exit 0\n")
        (folder / "install.sh").write_text("exit 0\n")
        (folder / "packer").mkdir()
        for name in (TEMPLATE, INSIDE):
            (folder / name).write_text((ROOT / name).read_text())
        self.write()

    def write(self) -> None:
        (self.folder / "targets.yaml").write_text(yaml.safe_dump(self.content))

    def builds(self) -> dict[str, Any]:
        configuration = load(self.folder, providers=frozenset(PROVIDERS))
        return {f"{each.name} {each.flavour.name}": each for each in _builds(configuration)}  # type: ignore[union-attr]

    def inputs(self, build: Any) -> Any:
        sha256 = self.bases.get(build.name, "b" * 64)
        return bake_inputs(build, self.folder, Image(source="", sha256=sha256, disk=""))

    def bake_all(self, age_s: int = 0) -> None:
        """Put an image of each into the index or the lock, without baking any."""
        for number, build in enumerate(self.builds().values()):
            image = Baked(
                project=str(self.folder),
                target=build.name,
                distro=build.target.distro.name,
                provider=build.target.provider,
                flavour=build.flavour.name,
                region=build.target.options.get("region", ""),
                key=key_of(self.inputs(build)),
                inputs=self.inputs(build),
                base="a disk",
                made_at=float(int(time.time()) - number - age_s),
                packer="1.6.6",
                run_id="run",
            )
            image.folder.mkdir(parents=True)
            (image.folder / baked.FACTS).write_bytes(msgspec.json.encode(image))
            if build.target.provider == "aws":
                write_baked(self.folder, dataclasses.replace(image, ami=f"ami-{number:08x}"))

    def stale(self) -> dict[str, tuple[str, ...]]:
        """Which images are not fresh -> why."""
        choices = {
            name: choose(each, self.inputs(each), known_images(each.target, self.folder))
            for name, each in self.builds().items()
        }
        return {name: each.changes for name, each in choices.items() if each.image is None}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


# --- the file -----------------------------------------------------------------------------------


def content_of(project: Project, distro: str = "debian_one") -> dict[str, Any]:
    configuration = load(project.folder, providers=frozenset(PROVIDERS))
    targets = [each for each in configuration.targets.values() if each.distro.name == distro]
    flavours = [each for each in configuration.flavours.values() if distro in each.distros]
    content: dict[str, Any] = json.loads(rendered(project.folder, targets, flavours))
    return content


def test_each_provider_has_a_builder_for_each_flavour(project: Project) -> None:
    builders = {each["name"]: each["type"] for each in content_of(project)["builders"]}
    kinds = {"qemu": "qemu", "libvirt": "qemu", "virtualbox": "virtualbox-ovf", "aws": "amazon-ebs"}
    assert builders == {
        f"{provider}-{flavour}": kind
        for provider, kind in kinds.items()
        for flavour in ("plain", "docker")
    }


def test_only_what_starts_a_kernel_directly_names_one(project: Project) -> None:
    def arguments(distro: str, builder: str) -> list[str]:
        builders = {each["name"]: each for each in content_of(project, distro)["builders"]}
        return [pair[0] for pair in builders[builder]["qemuargs"]]

    assert {"-kernel", "-initrd", "-blockdev"} <= set(arguments("debian_one", "qemu-plain"))
    assert not {"-kernel", "-initrd"} & set(arguments("debian_two", "qemu-plain"))
    assert not {"-kernel", "-blockdev"} & set(arguments("debian_one", "libvirt-plain"))


def test_a_port_is_open_to_this_host_alone(project: Project) -> None:
    text = json.dumps(content_of(project))
    assert text.count("hostfwd=tcp:127.0.0.1:") == 4
    assert "hostfwd=tcp::" not in text


def test_who_has_only_packer_is_shown_the_parameter_that_names_an_image(project: Project) -> None:
    """Packer takes no file with a builder for AWS that starts from nothing."""
    name = "/aws/service/an/image"
    project.content["distros"]["debian_one"]["providers"]["aws"]["image"] = {"ami_parameter": name}
    project.write()
    content = content_of(project)
    assert content["variables"]["source_ami"] == name
    (cloud, *_) = (each for each in content["builders"] if each["type"] == "amazon-ebs")
    assert "source_ami_filter" not in cloud


def test_what_a_killed_packer_leaves_in_aws_says_whose_it_is(project: Project) -> None:
    """Its machine and its disk, which a sweep finds by the run's tag alone."""
    builders = content_of(project)["builders"]
    (cloud, *_) = (each for each in builders if each["type"] == "amazon-ebs")
    assert cloud["run_volume_tags"] == cloud["run_tags"]
    assert {launch.RUN, launch.TARGET, launch.EXPIRES_AT} < cloud["run_tags"].keys()


def test_a_value_can_break_neither_json_nor_packer(project: Project) -> None:
    cloud = next(each for each in content_of(project)["builders"] if each["name"] == "aws-plain")
    said = cloud["source_ami_filter"]["filters"]["name"]
    assert said == NASTY.replace("{{", "{{`{{`}}")
    assert json.loads(quoted(("{{", 1, True))) == ["{{`{{`}}", 1, True]


def test_what_may_hold_credentials_comes_from_the_environment_alone(project: Project) -> None:
    content = content_of(project)
    assert content["sensitive-variables"] == list(TRUST)
    for name in TRUST:
        assert content["variables"][name] == f"{{{{env `{name}`}}}}"


ADDRESS = "https://me:secret@index.example/simple"


def test_who_is_not_root_gives_no_value_to_sudo_as_an_argument(
    project: Project, tmp_path: Path
) -> None:
    """sudo writes its arguments into a log, which would become a part of the image."""
    told, place = tmp_path / "told", tmp_path / "bin"
    place.mkdir()
    programs = {"id": "echo 1000", "sudo": f'printf "%s\\n" "$@" >>{told}; shift; exec "$@"'}
    programs["sh"] = f'printf "%s\\n" "$PIP_INDEX_URL" "$@" >>{told}.sh'
    for name, text in programs.items():
        (place / name).write_text(f"#!/bin/bash\n{text}\n")
        (place / name).chmod(0o755)
    lines = [
        each["execute_command"] for each in _provisioners(project) if "execute_command" in each
    ]
    assert len(lines) > 1
    for line in lines:
        text = line.replace("{{ .Vars }}", f"PIP_INDEX_URL='{ADDRESS}'")
        env = {"PATH": f"{place}:{os.environ['PATH']}"}
        subprocess.run(
            ["/bin/bash", "-c", text.replace("{{ .Path }}", "/tmp/x.sh")], env=env, check=True
        )
    assert "secret" not in told.read_text()
    heard = Path(f"{told}.sh").read_text().split()
    assert heard.count(ADDRESS) == len(lines)


def _provisioners(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = content_of(project)["provisioners"]
    return found


def test_a_kernel_of_its_own_is_a_part_of_the_image(project: Project) -> None:
    """It lies beside the disk, and comes with it; images without one keep their keys."""
    build = next(iter(project.builds().values()))
    source = dataclasses.replace(build.target.image, kernel_sha256="a" * 64)
    target = dataclasses.replace(build.target, image=source)
    before, after = project.inputs(build), project.inputs(dataclasses.replace(build, target=target))
    assert {each.name for each in after} - {each.name for each in before} == {"kernel"}


def test_a_flavours_packages_reach_its_script_alone(project: Project) -> None:
    runs = {
        tuple(each["only"]): each["environment_vars"][0]
        for each in content_of(project)["provisioners"]
        if "only" in each
    }
    assert {name.partition("-")[2] for names in runs for name in names} == {"plain", "docker"}
    for names, packages in runs.items():
        wanted = "docker.io" if names[0].endswith("docker") else ""
        assert packages == f"BAKE_PACKAGES={wanted}"


def test_a_broken_template_is_named_with_its_line(project: Project) -> None:
    (project.folder / TEMPLATE).write_text("{\n<< nothing.here >>\n}")
    with pytest.raises(UsageError, match=r"packerfile\.json\.j2"):
        content_of(project)
    (project.folder / TEMPLATE).write_text("{")
    with pytest.raises(UsageError, match="makes no JSON"):
        content_of(project)


def test_a_template_is_compiled_once_however_many_images_it_makes(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def from_string(self: jinja2.Environment, source: str) -> jinja2.Template:
        compiled.append(source)
        return before(self, source)

    before = jinja2.Environment.from_string
    monkeypatch.setattr(jinja2.Environment, "from_string", from_string)
    for comment in ("<# one #>", "<# another #>"):
        text = (project.folder / TEMPLATE).read_text()
        (project.folder / TEMPLATE).write_text(comment + text)
        project.stale()
    assert len(compiled) == 2


def test_a_project_without_its_own_template_uses_the_shipped_one(project: Project) -> None:
    (project.folder / TEMPLATE).unlink()
    assert text_of(project.folder, TEMPLATE) == (ROOT / TEMPLATE).read_text()


def test_the_committed_files_are_what_targets_yaml_makes() -> None:
    """`build render --write` writes them again."""
    configuration = load(ROOT, providers=frozenset(PROVIDERS))
    found = {path.parent.name for path in ROOT.glob(path_of("*"))}
    assert found == {name for name, each in configuration.distros.items() if not each.windows}
    for distro in found:
        targets = [each for each in configuration.targets.values() if each.distro.name == distro]
        flavours = [each for each in configuration.flavours.values() if distro in each.distros]
        assert (ROOT / path_of(distro)).read_text() == rendered(ROOT, targets, flavours)


def test_no_two_tries_in_aws_make_an_image_of_the_same_name(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No account may have two, and a try that failed may have left one."""
    monkeypatch.setattr(bake_base, "_aws", lambda _: {})
    build = project.builds()["debian_one_aws plain"]
    names = [
        variables_of(
            Place(
                build=build,
                base=Image(source="", sha256="", disk="ami-87654321"),
                folder=project.folder,
                name="bo-machine",
                provider=FakeProvider(),
                run_uuid="e" * 32,
                run_id="20261121T014500Z-3f9c",
                attempt=attempt,
                limit_s=60,
                deadline=LIMIT,
                cancel=NEVER,
            )
        )["image_name"]
        for attempt in (1, 2)
    ]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"[\w.()/ -]{3,128}", name) for name in names)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda rows: rows["recipes"]["small"].update(flavour="plian"), "unknown flavour plian"),
        (lambda rows: rows["flavours"]["plain"].update(script="instal.sh"), "does not exist"),
        (lambda rows: rows["flavours"]["docker"].update(distros=["debian"]), "unknown distro"),
        (lambda rows: rows["flavours"]["docker"].update(distros=["windows_2022"]), "is Windows"),
        (lambda rows: rows["flavours"]["docker"].update(packages=["a;b"]), "a package's name"),
        (lambda rows: rows["defaults"].update(max_image_age="3 weeks"), "a number with h or d"),
    ],
)
def test_a_wrong_flavour_is_named(
    project: Project, change: Callable[[dict[str, Any]], None], problem: str
) -> None:
    change(project.content)
    project.write()
    with pytest.raises(ConfigurationError) as caught:
        project.builds()
    assert problem in caught.value.details
    assert "did you mean" in caught.value.details or "unknown flavour" not in problem


# --- fresh or stale -----------------------------------------------------------------------------

ALL = {
    *(f"debian_one_{each} plain" for each in ("qemu", "libvirt", "virtualbox", "aws")),
    *(f"debian_one_{each} docker" for each in ("qemu", "libvirt", "virtualbox", "aws")),
    "debian_two_qemu plain",
}


def edit(name: str, old: str, new: str) -> Callable[[Project, pytest.MonkeyPatch], None]:
    def change(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        del monkeypatch
        path = project.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def rows(change: Callable[[dict[str, Any]], Any]) -> Callable[[Project, pytest.MonkeyPatch], None]:
    def changed(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
        del monkeypatch
        change(project.content)
        project.write()

    return changed


def other_base(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    project.bases["debian_one_libvirt"] = "c" * 64


def other_kernel_arguments(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    del project
    monkeypatch.setattr(module, "KERNEL_ARGUMENTS", "root=/dev/vdb")


def other_recipe(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    del project
    monkeypatch.setattr(module, "RECIPE", "2")


INPUTS: dict[str, tuple[Callable[[Project, pytest.MonkeyPatch], None], set[str], str]] = {
    "script line": (edit("install.sh", "exit 0", "exit 0 #"), ALL, "script install.sh"),
    "package list": (
        rows(lambda all_rows: all_rows["flavours"]["docker"]["packages"].append("buildah")),
        {each for each in ALL if each.endswith("docker")},
        "packages: was docker.io, is docker.io buildah",
    ),
    "base image": (
        other_base,
        {each for each in ALL if each.startswith("debian_one_libvirt")},
        "base image",
    ),
    "template of one provider": (
        edit(TEMPLATE, '"guest_additions_mode": "disable"', '"guest_additions_mode": "attach"'),
        {each for each in ALL if "virtualbox" in each},
        "template",
    ),
    "template of all": (
        edit(TEMPLATE, "inside.sh packages >", "inside.sh packages  >"),
        ALL,
        "template",
    ),
    "how boxes are packed": (
        edit(TEMPLATE, '"compression_level": 1', '"compression_level": 9'),
        {each for each in ALL if "libvirt" in each or "virtualbox" in each},
        "template",
    ),
    "what a kernel is told": (
        other_kernel_arguments,
        {"debian_one_qemu plain", "debian_one_qemu docker"},
        "template",
    ),
    "how large the disk is": (
        rows(lambda all_rows: all_rows["defaults"].update(size={"disk_mib": 16384})),
        {each for each in ALL if "qemu" in each},
        "disk: was 8192 MiB, is 16384 MiB",
    ),
    "what runs inside": (edit(INSIDE, "apt-get clean", "apt-get -q clean"), ALL, "inside.sh"),
    "distro row": (
        rows(lambda all_rows: all_rows["distros"]["debian_two"].update(distribution="Devuan")),
        {"debian_two_qemu plain"},
        "distro",
    ),
    "our version": (other_recipe, ALL, "bake version: was 1, is 2"),
}


@pytest.mark.parametrize(("change", "stale", "reason"), INPUTS.values(), ids=INPUTS)
def test_exactly_the_images_that_depend_on_an_input_are_stale(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Project, pytest.MonkeyPatch], None],
    stale: set[str],
    reason: str,
) -> None:
    project.bake_all()
    assert project.stale() == {}
    change(project, monkeypatch)
    found = project.stale()
    assert set(found) == stale
    for changes in found.values():
        assert any(reason in line for line in changes), changes


def may_be_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    (project.folder / "install.sh").chmod(0o755)


UNRELATED = {
    "whether the flavour's script may be run": may_be_run,
    "the recipe's script": edit("make.sh", "exit 0", "# a comment\nexit 0"),
    "a comment in the template": edit(TEMPLATE, "Packer's own words", "The words of Packer"),
    "a comment in targets.yaml": edit("targets.yaml", "schema: 1", "schema: 1 # of ours"),
    "how packing is done": edit(TEMPLATE, '"strip_path": true', '"strip_path": false'),
    "how large a disk is for who has only Packer": edit(TEMPLATE, '"40960"', '"20480"'),
    "the size of machines": rows(
        lambda all_rows: all_rows["defaults"].update(size={"cpus": 4, "memory_mib": 4096})
    ),
    "where machines of AWS are, and of which kind": rows(
        lambda all_rows: all_rows["defaults"]["launch"].update(
            instance_types=["m7i.large"], subnet_id="subnet-12345678", address="private"
        )
    ),
    "another distro": rows(lambda all_rows: all_rows["distros"].pop("windows_2022")),
}


@pytest.mark.parametrize("change", UNRELATED.values(), ids=UNRELATED)
def test_what_no_image_depends_on_makes_none_stale(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Project, pytest.MonkeyPatch], None],
) -> None:
    project.bake_all()
    change(project, monkeypatch)
    assert project.stale() == {}


OWN: dict[str, Any] = {
    "variables": {"size": "1", "of": "{{user `size`}}", "other": "2", "region": "x", "not": "3"},
    "builders": [{"name": "qemu-plain", "type": "qemu"}],
    "provisioners": [{"type": "shell", "inline": ["echo {{user `of`}} {{user `region`}}"]}],
}


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        ({"variables": OWN["variables"] | {"of": "{{user `other`}}"}}, True),
        ({"variables": OWN["variables"] | {"size": "9"}}, True),
        ({"variables": OWN["variables"] | {"not": "9"}}, False),
        ({"variables": OWN["variables"] | {"region": "y"}}, False),
        ({"post-processors": ["compress"]}, True),
        ({"post-processors": [["compress", {"type": "manifest"}]]}, True),
        ({"post-processors": [["manifest", {"type": "checksum"}]]}, False),
        ({"post-processors": [{"type": "compress", "only": ["libvirt-plain"]}]}, False),
        ({"post-processors": [{"type": "compress", "except": ["qemu-plain"]}]}, False),
        ({"provisioners": [*OWN["provisioners"], {"type": "shell", "only": ["b"]}]}, False),
        ({"provisioners": [*OWN["provisioners"], {"type": "shell", "only": ["qemu-plain"]}]}, True),
        ({"min_packer_version": "1.7.0"}, False),
    ],
)
def test_a_projects_own_template_is_a_part_of_the_key_as_far_as_it_changes_an_image(
    change: dict[str, Any], changes: bool
) -> None:
    before, after = (part_of(json.dumps(each)) for each in (OWN, OWN | change))
    assert (before != after) is changes


def test_the_shipped_templates_variables_say_how_an_image_is_made(project: Project) -> None:
    """All but one: whoever adds another decides whether it is a part of the key."""
    assert set(content_of(project)["variables"]) - MAKING == {"kernel_arguments"}


def test_an_image_that_is_too_old_will_not_do(project: Project) -> None:
    project.content["defaults"]["max_image_age"] = "2h"
    project.write()
    project.bake_all(age_s=7000)
    assert project.stale() == {}
    project.bake_all(age_s=7300)
    for image in baked.all_images():
        if image.age_s(time.time()) < 7200:
            baked.remove(image, deadline=LIMIT)
    assert set(project.stale()) == ALL


def test_an_image_of_another_region_will_not_do(project: Project) -> None:
    project.bake_all()
    project.content["defaults"]["launch"]["region"] = "eu-west-2"
    project.write()
    assert set(project.stale()) == {"debian_one_aws plain", "debian_one_aws docker"}


def test_an_image_that_aws_does_not_have_any_more_will_not_do(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.bake_all()
    build = project.builds()["debian_one_aws plain"]
    choice = choose(build, project.inputs(build), known_images(build.target, project.folder))
    assert choice.image is not None
    monkeypatch.setattr(ec2_images, "exists", lambda *_, **__: True)
    assert baked.available(choice, build, deadline=LIMIT, cancel=NEVER) == choice
    monkeypatch.setattr(ec2_images, "exists", lambda *_, **__: False)
    found = baked.available(choice, build, deadline=LIMIT, cancel=NEVER)
    assert found.image is None
    assert "is not in eu-west-1 any more" in found.reason


def test_an_image_without_its_file_will_not_do(project: Project) -> None:
    project.bake_all()
    (image, *_) = [each for each in baked.all_images() if each.target == "debian_two_qemu"]
    facts = json.loads((image.folder / baked.FACTS).read_text()) | {"file": "disk.qcow2"}
    (image.folder / baked.FACTS).write_text(json.dumps(facts))
    assert set(project.stale()) == {"debian_two_qemu plain"}
    (image.folder / "disk.qcow2").touch()
    assert project.stale() == {}


def test_what_is_damaged_is_no_image(project: Project) -> None:
    project.bake_all()
    victim = baked.all_images()[0]
    (victim.folder / baked.FACTS).write_text("{")
    assert victim.entry not in {each.entry for each in baked.all_images()}


def test_a_key_has_no_time_and_no_place_in_it(project: Project) -> None:
    build = next(iter(project.builds().values()))
    text = str(project.inputs(build))
    assert str(project.folder) not in text
    assert os.environ["XDG_CACHE_HOME"] not in text
    part = part_of(rendered(project.folder, [build.target], [build.flavour]))
    assert '"boot_s"' not in part  # A variable that says how an image is made.
