"""provision.windows.bat under Wine's cmd, with the real Python for Windows.

Wine's PowerShell ends with 0 and does nothing, and it has no curl, tar or certutil: what fetches a
Python is proven only as far as it does not believe any of them.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator import packager
from tests.real.windows_wheels import make_wheelhouse
from tests.standins import windows as standin

ROOT = Path(__file__).parents[2]


def in_windows(path: Path) -> str:
    """A path of this host as Wine sees it."""
    return "Z:" + str(path).replace("/", "\\")


class Windows:
    """A Wine of its own, with a project in it."""

    def __init__(self, folder: Path, prefix: Path) -> None:
        self.prefix = standin.copy_prefix(prefix, folder / "wine")
        self.drive = self.prefix / "drive_c"
        self.inputs = folder / "inputs"
        self.environment = {**standin.environment(self.prefix), "PIP_NO_INDEX": "1"}
        shutil.copytree(ROOT / "provision", self.inputs / "provision")
        self.bring_packager()
        shutil.copy(ROOT / "packager.yaml", self.inputs)

    def bring_packager(self) -> None:
        """As `build up` does."""
        (self.inputs / packager.NAME).write_bytes(packager.content())

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # All three are pipes or nothing: Windows' Python cannot start with files for them here.
        return subprocess.run(
            [standin.wine(), *argv],
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=600,
            check=False,
        )

    def provision(self, output: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        script = in_windows(self.inputs / "provision/provision.windows.bat")
        return self.run("cmd", "/c", script, BUILD_OUTPUT=in_windows(output), **variables)


@pytest.fixture(scope="module")
def windows(windows_prefix: Path) -> Iterator[Windows]:
    """One Wine for all of these tests; its processes end with them."""
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        made = Windows(Path(folder), windows_prefix)
        yield made
        standin.end(made.prefix)


@pytest.fixture(scope="module")
def python(python_for_windows: Path) -> Path:
    return python_for_windows


@pytest.fixture(scope="module")
def wheelhouse(windows: Windows) -> Path:
    """What packager.yaml asks for, and all that it needs, for Windows."""
    return make_wheelhouse(windows.inputs / "wheelhouse")


COMPILER = """\
# Plays Inno Setup's compiler: takes its options, reads the script, and packs what that names.
import pathlib, re, sys, zipfile
options = {word[:2]: word[2:] for word in sys.argv[1:] if word[:2] in ("/O", "/F")}
defined = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("/D"))
text = pathlib.Path(sys.argv[-1]).read_text()
text = re.sub(r"\\{#(\\w+)\\}", lambda name: defined[name[1]], text)
folder = pathlib.Path(re.search(r'Source: "(.*)\\\\\\*"', text)[1])
with zipfile.ZipFile(pathlib.Path(options["/O"], options["/F"] + ".exe"), "w") as made:
    made.writestr("script", text)
    for path in folder.rglob("*"):
        made.write(path, path.relative_to(folder).as_posix())
"""


def test_the_same_agent_is_built_on_windows(
    windows: Windows, python: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    """The set of the shipped packager.yaml, and a zip that runs from another path. Where Inno Setup
    is, an installer of the same files, too."""
    assert wheelhouse.is_dir()
    compiler = windows.drive / "Program Files/Inno Setup 6/ISCC.exe"
    compiler.parent.mkdir(parents=True)
    standin.make_program(compiler, COMPILER, in_windows(python / "python.exe"))
    try:
        done = windows.provision(tmp_path, PYTHON_HOME=in_windows(python), VERSION="7.1.0")
    finally:
        shutil.rmtree(compiler.parent)

    assert done.returncode == 0, done.stdout + done.stderr
    phases = [line for line in done.stdout.splitlines() if line.startswith("::phase ")]
    assert [line.split()[1] for line in phases] == [
        "prerequisites", "virtualenv", "modules", "validate", "pack", "installer",
    ]  # fmt: skip
    made = tmp_path / "cloudify-windows-agent_7.1.0.zip"
    assert f"made {in_windows(made)}: {made.stat().st_size} bytes" in done.stdout
    lock = (tmp_path / "cloudify-windows-agent_7.1.0.requirements.lock").read_text()
    assert "cloudify-common==7.0.5 \\\n    --hash=sha256:" in lock
    with zipfile.ZipFile(made) as archive:
        assert all(name.startswith("cloudify/env/") for name in archive.namelist())
        assert not [name for name in archive.namelist() if name.endswith(".pyc")]
        packed = {name.removeprefix("cloudify/env/") for name in archive.namelist()}
        archive.extractall(tmp_path)
    assert f"made {in_windows(made.with_suffix('.exe'))}" in done.stdout
    with zipfile.ZipFile(made.with_suffix(".exe")) as installer:
        assert packed < set(installer.namelist())
        assert "AppVersion=cloudify-windows-agent_7.1.0\n" in installer.read("script").decode()
    moved = (tmp_path / "cloudify/env").rename(tmp_path / "another place")
    ran = "import cloudify, psutil, yaml; print(cloudify.__file__)"
    said = windows.run(str(moved / "python.exe"), "-c", ran)
    assert said.stdout.strip().startswith(in_windows(moved)), said.stderr
    said = windows.run(str(moved / "Scripts/pip.exe"), "--version")
    assert said.stdout.startswith(f"pip 25.3 from {in_windows(moved)}"), said.stderr
    assert (windows.drive / "CloudifyAgent/python.exe").exists()
    assert not (windows.drive / "CloudifyAgent.work").exists()


def test_a_powershell_that_does_nothing_is_not_believed(windows: Windows, tmp_path: Path) -> None:
    """Wine's ends with 0: what it should have fetched is looked for, and is not there."""
    address = {"PYTHON_ZIP_URL": "http://127.0.0.1:9/python.zip", "PYTHON_ZIP_SHA256": "0" * 64}
    lie = windows.run("powershell.exe", "-Command", "exit 3")
    assert lie.returncode == 0

    done = windows.provision(tmp_path, **address)

    assert done.returncode == 1
    assert "PowerShell ended with 0, and C:\\CloudifyAgent.work\\python.zip is not there" in (
        done.stderr
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "no Python 3.8 or later is here, and no Chocolatey or winget brought one"),
        ({"PYTHON_HOME": "C:\\none"}, "PYTHON_HOME=C:\\none holds no Python 3.8 or later"),
        ({"PYTHON_ZIP_URL": "http://h/x.zip"}, "PYTHON_ZIP_URL needs PYTHON_ZIP_SHA256 beside it"),
        ({"BUILD_INPUTS": "C:\\none"}, "there is no packager.yaml in C:\\none"),
    ],
    ids=["no Python", "wrong home", "no checksum", "no inputs"],
)
def test_what_is_missing_is_named(
    variables: dict[str, str], message: str, windows: Windows, tmp_path: Path
) -> None:
    """Where, and what to try, with exit code 1 and nothing left to collect."""
    done = windows.provision(tmp_path, **variables)

    assert done.returncode == 1
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


CHOCOLATEY = r"""
import shutil, sys
with open(r"C:\choco-asked", "w") as file:
    print(*sys.argv[1:], file=file)
shutil.copytree(r"C:\python", r"C:\Python311")
"""


@pytest.mark.soak  # The agent once more, a minute long.
def test_a_machine_that_has_nothing_builds_from_the_packagers_source(
    windows: Windows, wheelhouse: Path, tmp_path: Path
) -> None:
    """As plain Vagrant brings it. Python comes by the machine's own package manager; a program that
    only ends with 0 is in Inno Setup's place, and not believed. A requirements file counts on
    Windows as elsewhere, and a module that lacks is named."""
    assert wheelhouse.is_dir()
    (windows.inputs / packager.NAME).unlink()
    assert windows.provision(tmp_path).returncode == 1, "neither file nor source"
    agent = windows.inputs / "build_orchestrator/agent"
    shutil.copytree(ROOT / "build_orchestrator/agent", agent)
    choco = windows.drive / "windows/choco.exe"
    standin.make_program(choco, CHOCOLATEY)
    packager_yaml = windows.inputs / "packager.yaml"
    small = 'core_modules: {{cloudify_common: "proxy_tools{}"}}\n'
    compiler = windows.drive / "Program Files/Inno Setup 6/ISCC.exe"
    compiler.parent.mkdir()
    shutil.copy(next((windows.drive / "windows").rglob("powershell.exe")), compiler)
    try:
        packager_yaml.write_text(small.format("<1") + "requirements_file: more.txt\n")
        (windows.inputs / "more.txt").write_text("click==8.1.8  # one more\n")
        done = windows.provision(tmp_path)
        assert done.returncode == 1
        assert "no Python is here: choco.exe brings 3.11.9" in done.stdout
        assert (windows.drive / "choco-asked").read_text().split() == [
            "install", "python311", "--version", "3.11.9", "--yes", "--no-progress",
        ]  # fmt: skip
        assert "Inno Setup made no cloudify-windows-agent.exe" in done.stderr
        with zipfile.ZipFile(tmp_path / "cloudify-windows-agent.zip") as archive:
            assert "cloudify/env/Lib/site-packages/click/__init__.py" in archive.namelist()

        packager_yaml.write_text(small.format("==99"))
        done = windows.provision(tmp_path)
        assert done.returncode == 1
        assert "No matching distribution found for proxy_tools==99" in done.stderr
        assert "the agent could not be built" in done.stderr
    finally:
        shutil.rmtree(compiler.parent)
        shutil.copy(ROOT / "packager.yaml", packager_yaml)
        shutil.rmtree(agent)
        shutil.rmtree(windows.drive / "Python311", ignore_errors=True)
        choco.unlink()
        windows.bring_packager()
