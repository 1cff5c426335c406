"""build-agent from modules to tar, with the real uv and the real pip, without any network."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

BUILD_AGENT = Path(__file__).parents[2] / "provision/build-agent"
PACKAGER_YAML = """\
distribution: "Debian"
release: "bookworm"
core_modules: {cloudify_common: wheels/cloudify_common-7.0.5-py3-none-any.whl}
"""


def make_wheel(folder: Path) -> None:
    """A wheel of cloudify-common that has nothing but a module and the console script ctx."""
    files = {
        "cloudify/__init__.py": b"def main():\n    import sys\n    print('ctx in', sys.prefix)\n",
        "cloudify_common-7.0.5.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: cloudify-common\nVersion: 7.0.5\n"
        ),
        "cloudify_common-7.0.5.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
        "cloudify_common-7.0.5.dist-info/entry_points.txt": (
            b"[console_scripts]\nctx = cloudify:main\n"
        ),
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(content)}\n"
    files["cloudify_common-7.0.5.dist-info/RECORD"] = record.encode()
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "cloudify_common-7.0.5-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)


def build(inputs: Path, work: Path, output: Path, tools: Path) -> subprocess.CompletedProcess[str]:
    output.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-I", "-B", BUILD_AGENT, inputs / "packager.yaml", tools],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "BUILD_INPUTS": str(inputs),
            "BUILD_OUTPUT": str(output),
            "BUILD_WORK": str(work),
            "SOURCE_DATE_EPOCH": "1704067200",
            "UV_OFFLINE": "1",
            "PIP_NO_INDEX": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(params=["uv", "pip"])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of tools, with uv in it or without."""
    folder = tmp_path / "tools"
    (folder / "bin").mkdir(parents=True)
    if request.param == "uv":
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert uv is not None, "uv is one of this project's own development dependencies"
        (folder / "bin/uv").symlink_to(uv)
    return folder


def test_an_agent_is_built_twice_and_moved(tools: Path, tmp_path: Path) -> None:
    """Both builds give the same bytes, and the agent runs from another folder, by any name."""
    make_wheel(tmp_path / "inputs/wheels")
    (tmp_path / "inputs/packager.yaml").write_text(PACKAGER_YAML)
    first = build(tmp_path / "inputs", tmp_path / "work", tmp_path / "one", tools)
    assert first.returncode == 0, first.stdout + first.stderr
    phases = [line for line in first.stdout.splitlines() if line.startswith("::phase")]
    assert phases == [f"::phase {name}" for name in ("virtualenv", "modules", "validate", "pack")]
    assert not (tmp_path / "work").exists()
    assert build(tmp_path / "inputs", tmp_path / "work", tmp_path / "two", tools).returncode == 0
    name = "Debian-bookworm-agent.tar.gz"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    agent = tmp_path / "some where/agent"
    agent.mkdir(parents=True)
    subprocess.run(
        ["tar", "-x", "--strip-components=1", "-f", tmp_path / "one" / name], cwd=agent, check=True
    )
    found = subprocess.run(
        ["grep", "-rl", tmp_path / "work", agent], capture_output=True, text=True, check=False
    )
    assert found.stdout == ""
    said = subprocess.run([agent / "env/bin/ctx"], capture_output=True, text=True, check=True)
    assert said.stdout == f"ctx in {agent / 'env'}\n"
    subprocess.run([agent / "env/bin/python", "-c", "import cloudify"], check=True)


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ("additional_modules: [no-such-module]", 69, "error: modules: status "),
        ("python_path: /nowhere/python3", 1, "error: virtualenv: "),
        ("output_tar: ../out.tar.gz", 78, "error: configuration: output_tar: "),
    ],
)
def test_each_failure_names_its_step(
    tools: Path, tmp_path: Path, more: str, status: int, said: str
) -> None:
    """And leaves no artifact."""
    make_wheel(tmp_path / "inputs/wheels")
    (tmp_path / "inputs/packager.yaml").write_text(PACKAGER_YAML + more)
    done = build(tmp_path / "inputs", tmp_path / "work", tmp_path / "out", tools)
    assert done.returncode == status
    assert said in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_changed_module_changes_the_bytes(tools: Path, tmp_path: Path) -> None:
    """One file more in a module is in the tar, and makes it another."""
    make_wheel(tmp_path / "inputs/wheels")
    (tmp_path / "inputs/packager.yaml").write_text(PACKAGER_YAML)
    build(tmp_path / "inputs", tmp_path / "work", tmp_path / "one", tools)
    wheel = tmp_path / "inputs/wheels/cloudify_common-7.0.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("cloudify/more.py", "x = 1\n")
    done = build(tmp_path / "inputs", tmp_path / "work", tmp_path / "two", tools)
    assert done.returncode == 0, done.stderr
    with tarfile.open(tmp_path / "two/Debian-bookworm-agent.tar.gz") as tar:
        assert any(name.endswith("/cloudify/more.py") for name in tar.getnames())
    one, two = (
        (tmp_path / folder / "Debian-bookworm-agent.tar.gz").read_bytes()
        for folder in ("one", "two")
    )
    assert one != two
