"""The recipes beside the agent, each in a clean machine."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from build_orchestrator.agent.wagon import show
from build_orchestrator.agent.wagon.archive import opened
from build_orchestrator.agent.wagon.metadata import read
from build_orchestrator.agent.wagon.validating import problems
from tests.real.baking import BakeProject
from tests.real.running import CHECKOUT, Project

TARGET = "debian_bookworm_qemu"


def check_wagon(path: Path) -> None:
    """It was installed in the machine; here it is whole, and says where it was made."""
    says = show(str(path))
    assert says["archive_name"] == "example_plugin-1.0-py311-none-linux_x86_64.wgn"
    assert says["package_source"] == "plugin"
    assert says["build_server_os_properties"]["distribution_release"] == "bookworm"
    assert [name.split("-")[0].lower() for name in says["wheels"]] == ["example_plugin", "pyyaml"]
    with opened(str(path)) as (folder, _):
        assert problems(folder, read(folder)) == []


def check_app(path: Path) -> None:
    """The project, and what its lock names."""
    with tarfile.open(path) as tar:
        package = tar.extractfile("app/node_modules/ms/package.json")
        assert package is not None
        assert json.load(package)["version"] == "2.1.3"
        members = tar.getmembers()
    assert {"app/index.js", "app/package.json"} < {member.name for member in members}
    assert {(member.mtime, member.uid, member.uname) for member in members} == {(1704067200, 0, "")}


def check_image(path: Path) -> None:
    """What `docker load` reads: a list of layers with one file in it, and one time."""
    with tarfile.open(path) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        (image,) = json.load(manifest)
        assert image["RepoTags"][0].endswith("example:latest")
        config = tar.extractfile(image["Config"])
        assert config is not None
        assert json.load(config)["created"] == "2024-01-01T00:00:00Z"
        layer = tar.extractfile(image["Layers"][0])
        assert layer is not None
        with tarfile.open(fileobj=layer) as files:
            assert [(file.name, file.mtime) for file in files] == [("hello", 1704067200)]


RECIPES = {
    "plugin_wagon": ("plugin.wgn", check_wagon),
    "nodejs": ("nodejs.tar.gz", check_app),
    "docker_image": ("docker-image.tar", check_image),
}


def bring_all(project: Project) -> None:
    """What this project's own recipes need."""
    for name in ("provision", "examples", "build_orchestrator/agent"):
        shutil.copytree(CHECKOUT / name, project.folder / name)
    for name in ("targets.yaml", "packager.yaml"):
        shutil.copy(CHECKOUT / name, project.folder)


@pytest.mark.soak  # Each installs its tools first: minutes on an emulated machine.
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_a_recipe_is_built_when_it_is_asked_for(recipe: str, qemu_project: Project) -> None:
    """`build up debian_bookworm_qemu --recipe NAME`, as the docs have it."""
    bring_all(qemu_project)
    suffix, check = RECIPES[recipe]

    ended = qemu_project.build("up", TARGET, "--recipe", recipe)

    assert ended.status == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    (artifact,) = ended.row["artifacts"]
    assert Path(artifact["path"]).name == f"debian_bookworm-{suffix}"
    check(Path(artifact["path"]))
    assert qemu_project.leftovers() == []


# What an image for building Docker images is for: a daemon that answers, its client, and compose.
USES_DOCKER = """\
set -eu
cd "$BUILD_INPUTS/examples/docker-image"
n=0
until docker info >/dev/null 2>&1; do
    n=$((n + 1))
    [ $n -lt 60 ] || { docker info; exit 9; }
    sleep 2
done
docker load --input "$BUILD_INPUTS/made.tar" | grep example:latest
echo '{version: "3", services: {hello: {build: ., image: "example:latest"}}}' >docker-compose.yml
docker-compose build
docker save --output "$BUILD_OUTPUT/image.tar" example:latest
"""


@pytest.mark.soak  # a whole bake of some hundred packages, and two builds
@pytest.mark.timeout(3600)
def test_an_image_for_docker_is_baked_and_used(bake_project: BakeProject) -> None:
    """`build bake debian_bookworm_qemu --flavour docker`: the recipe `docker_image` installs
    nothing there, and Docker's own clients find their daemon, which loads what it has made."""
    bring_all(bake_project)
    path = bake_project.folder / "targets.yaml"
    content = yaml.safe_load(path.read_text())
    content["recipes"]["docker"] = {
        "script": "docker.sh",
        "flavour": "docker",
        "inputs": ["examples/docker-image/", "made.tar"],
        "outputs": [{"name": "image.tar"}],
    }
    path.write_text(yaml.safe_dump(content))
    (bake_project.folder / "docker.sh").write_text(USES_DOCKER)
    made = bake_project.folder / "made.tar"
    made.touch()

    baked = bake_project.build("bake", TARGET, "--flavour", "docker")
    assert baked.status == 0, baked.stdout[-3000:] + baked.stderr[-3000:]
    (image,) = bake_project.baked()
    assert image["flavour"] == "docker"
    assert {"docker.io", "docker-compose", "buildah", "gcc"} <= image["packages"].keys()
    for recipe, name in (
        ("docker_image", "debian_bookworm-docker-image.tar"),
        ("docker", "image.tar"),
    ):
        ended = bake_project.build("up", TARGET, "--recipe", recipe, "--require-baked")
        assert ended.status == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        assert ended.row["image"].startswith("baked docker of ")
        assert "installing" not in bake_project.log()
        (artifact,) = ended.row["artifacts"]
        assert Path(artifact["path"]).name == name
        if recipe == "docker_image":
            check_image(Path(artifact["path"]))
            shutil.copy(artifact["path"], made)
    assert bake_project.leftovers() == []

    # Once it is stale, it goes with the first start that was saved of it.
    shelves = [bake_project.cache / name for name in ("baked", "snapshots")]
    assert [len(folders_in(each)) for each in shelves] == [1, 1]
    with (bake_project.folder / "provision/prerequisites.sh").open("a") as script:
        script.write("# another line\n")
    assert "removed" in bake_project.build("images", "prune").stdout
    assert [len(folders_in(each)) for each in shelves] == [0, 0]


def folders_in(place: Path) -> list[Path]:
    return [each for each in place.iterdir() if each.is_dir()]
