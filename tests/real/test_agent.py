"""The main job: agents for three distros, each proven in another clean machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.real.running import CHECKOUT, Project

SUITES = ("bullseye", "bookworm", "trixie")

RELOCATE = """\
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
RECIPE = """\
recipes:
  relocate:
    script: relocate.sh
    inputs: [relocate.sh, agents/]
    outputs: [{name: "{distribution}-{release}.txt"}]
"""
SCRIPT = """\
#!/bin/sh
# Extract the agent where nobody built it, and use it.
set -eu
suite=${BUILD_DISTRO#debian_}
place="/opt/an agent of $suite"
mkdir "$place"
tar -xzf "agents/Debian-$suite-agent.tar.gz" --strip-components=1 -C "$place"
cd /
"$place/env/bin/python" -c 'import cloudify, psutil, yaml; print(cloudify.__file__)' \
  >"$BUILD_OUTPUT/Debian-$suite.txt"
"$place/env/bin/wagon" --help >/dev/null
! grep -rlI /var/tmp/build-orchestrator "$place"
"""


@pytest.mark.timeout(1800)
def test_three_agents_are_built_and_work_elsewhere(qemu_project: Project) -> None:
    """`build up 'debian_*_qemu' -j2` in a fresh clone, then `import cloudify` in new machines."""
    clone = qemu_project.folder
    clone.rmdir()
    subprocess.run(["git", "clone", "-q", str(CHECKOUT), str(clone)], check=True)
    qemu_project.environment["PYTHONPATH"] = str(clone)

    ended = qemu_project.build("up", "debian_*_qemu", "-j2")

    assert ended.status == 0, ended.stdout + ended.stderr[-3000:]
    rows = results(clone)
    assert [row["outcome"] for row in rows] == ["built"] * 3
    assert changed_files(clone) == ""
    published = sorted((clone / "dist").glob("dev/*/*.tar.gz"))
    assert sorted(path.name for path in published) == sorted(map(name_of, SUITES))
    for path in published:
        check_sidecar(path)
        with tarfile.open(path) as archive:
            assert all(member.name.startswith("cloudify/env/") for member in archive)

    relocated = relocate(qemu_project, published)

    for suite in SUITES:
        said = relocated[suite].read_text()
        assert said.startswith(f"/opt/an agent of {suite}/env/lib/python3")
    assert qemu_project.leftovers() == []


def name_of(suite: str) -> str:
    """The agent's file name."""
    return f"Debian-{suite}-agent.tar.gz"


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


def relocate(project: Project, agents: list[Path]) -> dict[str, Path]:
    """Use each agent in another clean machine of its distro; return what each machine left."""
    folder = project.folder.with_name("relocate")
    (folder / "agents").mkdir(parents=True)
    for agent in agents:
        shutil.copy(agent, folder / "agents")
    rows = "".join(DISTRO.format(suite=suite) for suite in SUITES)
    (folder / "targets.yaml").write_text(RELOCATE + rows + RECIPE)
    (folder / "relocate.sh").write_text(SCRIPT)

    ended = project.build("--project", str(folder), "up", "debian_*", "-j2")

    assert ended.status == 0, ended.stdout + ended.stderr[-3000:]
    files = (Path(row["artifacts"][0]["path"]) for row in results(folder))
    return dict(zip(SUITES, files, strict=True))
