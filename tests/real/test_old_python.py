"""An agent in a machine whose own Python is too old, by the real uv and an interpreter from it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from build_orchestrator.agent import interpreter
from tests.conftest import require
from tests.real.running import CHECKOUT, Project

PYTHON = "/usr/bin/python3"
TARGETS = """\
schema: 1
default_provider: qemu
defaults: {recipe: old, destinations: [dist/]}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers: {qemu: {image: {bootstrap: bookworm}}}
recipes:
  old:
    script: old.sh
    inputs: [old.sh, provision/, packager.yaml, standalone/]
    outputs:
      - {name: "{distribution}-{release}-agent.tar.gz", members: cloudify/env/}
      - {name: "{distribution}-{release}-agent.requirements.lock"}
    pass_host_trust: true
"""
SETTINGS = (
    'core_modules: {cloudify_common: "proxy_tools<1"}\nadditional_modules: ["psutil==7.2.2"]\n'
)
OLD = """\
#!/bin/sh
# Every python3 on PATH says that it is too old to build with, as Debian 10's would.
set -eu
mkdir old
for name in python3 python3.11; do
    echo '#!/bin/sh' >old/$name
    echo 'case $* in *version_info*) exit 1 ;; esac; exec /usr/bin/python3 "$@"' >>old/$name
    chmod +x old/$name
done
# What uv knows of interpreters, with the one here in place of those that lie in public.
sed "s#HERE#$PWD#" standalone/list.json >standalone/known.json
export PATH="$PWD/old:$PATH" UV_PYTHON_DOWNLOADS_JSON_URL="$PWD/standalone/known.json"
exec provision/provision.sh
"""


def make_standalone(folder: Path) -> None:
    """An interpreter that runs where it is unpacked, with pip, and what uv has to know of it."""
    about = interpreter.about(PYTHON)
    interpreter.bundle(about, folder / "python")
    (site,) = (folder / "python").glob("lib/python3*/site-packages")
    argv = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), "pip"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    require(that=done.returncode == 0, because=f"pip cannot be had: {done.stderr[-300:]}")
    with tarfile.open(folder / "python.tar.gz", "w:gz") as tar:
        tar.add(folder / "python", "python")
    shutil.rmtree(folder / "python")
    major, minor, patch = map(int, about.marks["python_full_version"].split("."))
    row = {
        "name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux",
        "libc": "gnu", "major": major, "minor": minor, "patch": patch, "prerelease": "",
        "url": "file://HERE/standalone/python.tar.gz", "variant": None, "build": "20250101",
        "sha256": hashlib.sha256((folder / "python.tar.gz").read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / "list.json").write_text(json.dumps({"cpython-3.11-linux-x86_64-gnu": row}))


@pytest.mark.soak  # four minutes
@pytest.mark.timeout(1200)
def test_an_agent_is_built_where_the_own_python_is_too_old(
    qemu_project: Project, tmp_path: Path
) -> None:
    """uv comes from the package index and brings an interpreter, which is in the agent then."""
    require(PYTHON, that=Path("/etc/debian_version").exists(), because="it is no Debian")
    folder = qemu_project.folder
    (folder / "standalone").mkdir()
    make_standalone(folder / "standalone")
    shutil.copytree(CHECKOUT / "provision", folder / "provision")
    for name, text in (("targets.yaml", TARGETS), ("packager.yaml", SETTINGS), ("old.sh", OLD)):
        (folder / name).write_text(text)

    ended = qemu_project.build("up", "debian_bookworm_qemu")

    assert ended.status == 0, ended.stdout + ended.stderr[-3000:] + qemu_project.log()[-3000:]
    log = qemu_project.log()
    assert "bringing a standalone CPython 3.11 by uv" in log
    assert "bundled Python 3.11 of /opt/build-orchestrator/python/cpython-3.11." in log
    archive = next(Path(a["path"]) for a in ended.row["artifacts"] if a["name"].endswith(".gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "agent", filter="tar")
    python = tmp_path / "agent/cloudify/env/bin/python"
    ran = "import proxy_tools, psutil, sys; print(sys.prefix)"
    said = subprocess.run([python, "-c", ran], capture_output=True, text=True, check=True)
    assert said.stdout == f"{tmp_path}/agent/cloudify/env\n"
    assert qemu_project.leftovers() == []
