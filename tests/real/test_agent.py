"""The main job: agents for three distros, each proven in another machine that has no Python."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.real.baking import BakeProject
from tests.real.running import CHECKOUT, Project

SUITES = ("bullseye", "bookworm", "trixie")
REPEATED = "bookworm"
PYTHON_OF_REPEATED = "3.11"

TARGETS = """\
schema: 1
default_provider: qemu
defaults: {recipe: relocate, destinations: [dist/]}
distros:
"""
DISTRO = """\
  debian_{suite}:
    distribution: Debian
    release: {suite}
    providers: {{qemu: {{image: {{bootstrap: {suite}}}}}}}
"""
RECIPES = """\
recipes:
  relocate:
    script: relocate.sh
    inputs: [relocate.sh, agents/]
    outputs: [{name: "{distribution}-{release}.txt"}]
  offline:
    script: offline.sh
    inputs: [offline.sh, provision/, packager.yaml, wheelhouse/]
    requirements_lock: agent.lock
    outputs:
      - {name: "{distribution}-{release}-agent.tar.gz", members: cloudify/env/}
      - {name: "{distribution}-{release}-agent.requirements.lock"}
    pass_host_trust: true
"""
RELOCATE = """\
#!/bin/sh
# Extract the agent where nobody built it and nothing of Python is, and use it.
set -eu
suite=${BUILD_DISTRO#debian_}
not() { # COMMAND...: must fail
    if "$@"; then echo "not expected: $*"; exit 1; fi
}

ip route del default
# Everything of Python goes, and with it every library that only Python needed.
dpkg-query -W -f '${Package}\\n' 'python3*' 'libpython3*' | xargs apt-get -qq purge --autoremove
hash -r
[ -z "$(find / -xdev -name 'python3*' -type f -perm /111)" ]
[ -z "$(find / -xdev -name 'libreadline.so*')" ]
not ls -d /usr/lib/python3*/os.py

mkdir /opt/read-only
tar -xzf "agents/Debian-$suite-agent.tar.gz" --strip-components=1 -C /opt/read-only
not grep -rl /var/tmp/build-orchestrator /opt/read-only

use() { # FOLDER: as an ordinary user, and as root
    cd /
    for user in nobody root; do
        runuser -u "$user" -- "$1/env/bin/python" -c '
import cloudify, ctypes, lzma, os, psutil, readline, sqlite3, ssl, sys, yaml
print(os.getuid(), sys.prefix, cloudify.__file__)' >>"$BUILD_OUTPUT/Debian-$suite.txt"
        runuser -u "$user" -- "$1/env/bin/wagon" --help >/dev/null
    done
}

mount --bind /opt/read-only /opt/read-only
mount -o remount,bind,ro /opt/read-only
not touch /opt/read-only/env/x
use /opt/read-only
umount /opt/read-only

mv /opt/read-only '/opt/a folder with spaces'
use '/opt/a folder with spaces'
long=/opt/$(printf '%0199d' 0 | tr 0 x)
mv '/opt/a folder with spaces' "$long"
use "$long"
"$long/env/bin/pip" --version >/dev/null
"""
OFFLINE = """\
#!/bin/sh
# The same agent, with the network of the machine cut after the prerequisites.
set -eu
PREREQUISITES_DEFINE_ONLY=yes INDEX_PAUSES=0
. provision/prerequisites.sh
install_prerequisites
ip route del default
if index_answers; then echo 'the network is not cut'; exit 1; fi
provision/provision.sh

agent=Debian-bookworm-agent.tar.gz
rm agent.lock
sed -i 's/click==[0-9.]*/OTHER/' packager.yaml
BUILD_OUTPUT=/var/tmp/changed provision/provision.sh
if cmp "$BUILD_OUTPUT/$agent" "/var/tmp/changed/$agent"; then echo 'nothing has changed'; exit 1; fi
"""
OTHER = "click==8.1.7"
PLACES = ["/opt/read-only", "/opt/a folder with spaces", "/opt/" + "x" * 199]


@pytest.mark.timeout(2400)
def test_an_agent_from_an_image_that_was_baked_first_works_elsewhere(
    bake_project: BakeProject,
) -> None:
    """`build up debian_bookworm_qemu --bake` in a fresh clone: what Packer installed once, the
    build does not install again."""
    published = built(bake_project, f"debian_{REPEATED}_qemu", "--bake")
    row = results(bake_project.folder)[0]
    assert row["image"].startswith("baked prerequisites of ")
    assert row["phases_s"]["prerequisites"] < prerequisites_s(bake_project) / 5
    (image,) = bake_project.baked()
    assert {"gcc", "python3-venv"} <= image["packages"].keys()
    check(bake_project, published, (REPEATED,))


@pytest.mark.soak  # a quarter of an hour
@pytest.mark.timeout(2400)
def test_agents_of_three_distros_work_elsewhere(qemu_project: Project) -> None:
    """`build up 'debian_*_qemu' -j2` in a fresh clone."""
    published = built(qemu_project, *(f"debian_{suite}_qemu" for suite in SUITES), "-j2")
    check(qemu_project, published, SUITES)


@pytest.mark.soak  # eight minutes, for which `make test` has no room
@pytest.mark.timeout(2400)
def test_an_agent_has_the_same_bytes_from_another_machine_without_a_network(
    qemu_project: Project,
) -> None:
    """Held to the lock of the first, from a folder of wheels; another version of one module then
    changes them, which the script in the machine sees."""
    published = built(qemu_project, f"debian_{REPEATED}_qemu")
    project = other_project(qemu_project, published)
    assert [digest_of(build_offline(qemu_project, project))] == [*map(digest_of, published)]


def check(project: Project, published: list[Path], suites: tuple[str, ...]) -> None:
    """Each agent is whole, and works at three awkward places in a machine without Python."""
    assert sorted(path.name for path in published) == sorted(map(name_of, suites))
    for path in published:
        check_sidecar(path)
        assert path.with_name(path.name.lower()).read_bytes() == path.read_bytes()
        with tarfile.open(path) as archive:
            assert all(member.name.startswith("cloudify/env/") for member in archive)

    for suite, said in relocate(project, other_project(project, published), suites).items():
        words = [line.split(" ", 1) for line in said.read_text().splitlines()]
        assert [word[0] for word in words] == ["65534", "0"] * 3
        assert [word[1].partition("/env ")[0] for word in words] == [
            place for place in PLACES for _ in range(2)
        ], suite
    assert project.leftovers() == []


def tar_of(row: dict[str, Any]) -> Path:
    """The agent among what was built, and not its lock."""
    return next(Path(each["path"]) for each in row["artifacts"] if each["name"].endswith(".gz"))


def built(project: Project, *arguments: str) -> list[Path]:
    """The agents that `build up` publishes in a fresh clone."""
    clone = project.folder
    clone.rmdir()
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(clone)], check=True)
    # Side by side with other tests, a machine with one CPU is the quicker one.
    targets = clone / "targets.yaml"
    targets.write_text(targets.read_text().replace("size: {cpus: 2,", "size: {cpus: 1,"))
    author = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    subprocess.run(["git", "-C", str(clone), *author, "commit", "-qam", "One CPU"], check=True)
    project.environment["PYTHONPATH"] = str(clone)

    ended = project.build("up", *arguments)

    assert ended.status == 0, ended.stdout + ended.stderr[-3000:]
    assert {row["outcome"] for row in results(clone)} == {"built"}
    assert changed_files(clone) == ""
    return sorted((clone / "dist").glob("dev/*/Debian-*.tar.gz"))


def prerequisites_s(project: Project) -> float:
    """How long the script of the prerequisites took while Packer made the image."""
    (file,) = project.folder.glob("runs/*/events.jsonl")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    scripts = [each for each in events if each.get("text", "").startswith("Provisioning")]
    begun, ended = next(
        (datetime.fromisoformat(each["at"]) for each in pair)
        for pair in itertools.pairwise(scripts)
        if pair[0]["text"].endswith("/prerequisites.sh")
    )
    return (ended - begun).total_seconds()


def name_of(suite: str) -> str:
    """The agent's file name."""
    return f"Debian-{suite}-agent.tar.gz"


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def results(project: Path) -> list[dict[str, Any]]:
    """The rows of the newest report."""
    report = max(project.glob("runs/*/report.json"))
    rows: list[dict[str, Any]] = json.loads(report.read_text())["results"]
    return rows


def changed_files(clone: Path) -> str:
    """What git sees of a run: nothing."""
    command = ["git", "-C", str(clone), "status", "--porcelain"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def check_sidecar(artifact: Path) -> None:
    """The published checksum is the artifact's."""
    sums = f"{artifact.name}.sha256"
    subprocess.run(["sha256sum", "--quiet", "-c", sums], cwd=artifact.parent, check=True)


def other_project(project: Project, agents: list[Path]) -> Path:
    """A folder with these agents, and two recipes that take them further."""
    folder = project.folder.with_name("other")
    (folder / "agents").mkdir(parents=True)
    for agent in agents:
        shutil.copy(agent, folder / "agents")
        if agent.name == name_of(REPEATED):
            lock = agent.with_name(agent.name.replace(".tar.gz", ".requirements.lock"))
            shutil.copy(lock, folder / "agent.lock")
    rows = "".join(DISTRO.format(suite=suite) for suite in SUITES)
    (folder / "targets.yaml").write_text(TARGETS + rows + RECIPES)
    (folder / "relocate.sh").write_text(RELOCATE)
    (folder / "offline.sh").write_text(OFFLINE.replace("OTHER", OTHER))
    for name in ("provision", "packager.yaml"):
        copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
        copy(CHECKOUT / name, folder / name)
    (folder / "wheelhouse").mkdir()
    return folder


def relocate(project: Project, folder: Path, suites: tuple[str, ...]) -> dict[str, Path]:
    """Use each agent in another clean machine of its distro; return what each machine left."""
    targets = [f"debian_{suite}" for suite in suites]
    ended = project.build("--project", str(folder), "up", *targets, "-j2")

    assert ended.status == 0, ended.stdout + ended.stderr[-3000:]
    files = (Path(row["artifacts"][0]["path"]) for row in results(folder))
    return dict(zip(suites, files, strict=True))


def build_offline(project: Project, folder: Path) -> Path:
    """Build one of the agents again, in a machine whose network is cut, held to its lock."""
    kinds = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (5, 12, 17, 28, 34)]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                "--python-version", PYTHON_OF_REPEATED, *kinds, "--platform=manylinux2014_x86_64",
                "--dest", "wheelhouse"]  # fmt: skip
    for asked in (["--require-hashes", "-r", "agent.lock"], [OTHER]):
        subprocess.run([*download, *asked], cwd=folder, check=True)

    target = f"debian_{REPEATED}_qemu"
    ended = project.build("--project", str(folder), "up", target, "--recipe", "offline")

    assert ended.status == 0, ended.stdout + ended.stderr[-3000:]
    (row,) = results(folder)
    return tar_of(row)
