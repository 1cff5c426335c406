"""Sources of the host that packager.yaml names by path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from build_orchestrator.agent import requirements
from build_orchestrator.inputs import inputs_of
from build_orchestrator.model import (
    Build,
    Deadlines,
    Distro,
    Image,
    ImageSource,
    Naming,
    Recipe,
    Size,
    Target,
)
from build_orchestrator.provision import gather_inputs
from build_orchestrator.sources import host_sources

PACKAGER = """
cloudify_agent_module: {agent}
core_modules: {{cloudify_common: "cloudify-common==7.0.5", inside: provision/inside}}
additional_modules: ["pip==25.3", "https://example.org/a/b.tar.gz", "missing/one"]
"""


def project(folder: Path, agent: str) -> Recipe:
    """A project with packager.yaml, an input folder, and the agent's source beside it."""
    (folder / "project/provision/inside").mkdir(parents=True)
    (folder / "project/provision/provision.sh").write_text("true\n")
    (folder / "project/packager.yaml").write_text(PACKAGER.format(agent=agent))
    (folder / "agent").mkdir()
    (folder / "agent/setup.py").write_text("# the agent\n")
    return Recipe(
        name="agent",
        script="provision/provision.sh",
        inputs=("provision/", "packager.yaml"),
        outputs=(),
        destinations=(),
    )


def build_of(recipe: Recipe) -> Build:
    """A build of this recipe."""
    target = Target(
        name="d_fake",
        distro=Distro(name="d", distribution="D", release="1"),
        provider="fake",
        image=ImageSource(),
        size=Size(),
        deadlines=Deadlines(),
    )
    return Build(target=target, recipe=recipe, naming=Naming(), outputs=(), environment={})


def test_only_paths_outside_the_inputs_are_brought(tmp_path: Path) -> None:
    """Requirements, addresses, inputs and what is not there stay as they are."""
    recipe = project(tmp_path, "../agent")

    assert host_sources(recipe, tmp_path / "project") == {"../agent": tmp_path / "agent"}


def test_a_requirements_file_is_brought_whatever_it_is_called(tmp_path: Path) -> None:
    """It is always a path, also without a slash; and the packager finds it in the machine."""
    recipe = project(tmp_path, "../agent")
    place = tmp_path / "project"
    (place / "more.txt").write_text("a==1\n")
    (place / "packager.yaml").write_text("requirements_file: more.txt\n")
    machine = tmp_path / "machine"
    machine.mkdir()

    gather_inputs(build_of(recipe), place, machine)

    assert requirements.find("more.txt", machine, tmp_path).read_text() == "a==1\n"


def test_a_source_arrives_beside_the_inputs_with_its_place_listed(tmp_path: Path) -> None:
    """The script finds it by what packager.yaml says, absolute path or not."""
    recipe = project(tmp_path, str(tmp_path / "agent"))
    machine = tmp_path / "machine"
    machine.mkdir()

    gather_inputs(build_of(recipe), tmp_path / "project", machine)

    listed = json.loads((machine / "host-sources/list.json").read_text())
    assert (machine / listed[str(tmp_path / "agent")] / "setup.py").read_text() == "# the agent\n"


def test_an_edit_of_the_source_changes_the_inputs_of_the_build(tmp_path: Path) -> None:
    """It decides what comes out, so it is part of the key."""
    recipe = project(tmp_path, "../agent")
    image = Image(source="none", sha256="", disk="")
    before = inputs_of(
        build_of(recipe), tmp_path / "project", image, nonce="n", now="2026-11-21T01:45:00Z"
    )
    (tmp_path / "agent/setup.py").write_text("# edited\n")

    after = inputs_of(
        build_of(recipe), tmp_path / "project", image, nonce="n", now="2026-11-21T01:45:00Z"
    )

    changed = [new.name for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["source ../agent"]


def test_a_broken_packager_yaml_is_left_to_the_script(tmp_path: Path) -> None:
    """Its message names file, line and key; ours could not."""
    recipe = project(tmp_path, "../agent")
    (tmp_path / "project/packager.yaml").write_text("a: [")

    assert host_sources(recipe, tmp_path / "project") == {}


@pytest.mark.parametrize(
    "agent",
    ["~no-such-user/agent", '"a/\\0"', "./loop", "/a" * 3000, "[" * 700 + "]" * 700],
    ids=["user", "nul", "loop", "long", "deep"],
)
def test_what_cannot_be_a_path_is_left_to_the_script(tmp_path: Path, agent: str) -> None:
    """It knows line and key; here it would only be a trace."""
    recipe = project(tmp_path, agent)
    (tmp_path / "project/loop").symlink_to("loop")
    assert host_sources(recipe, tmp_path / "project") == {}
