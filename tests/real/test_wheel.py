"""The wheel, installed into an empty environment and run from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CARRIED = ("packager.yaml", "packer", "provision", "vagrant")
INSTALL = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")


def done(*argv: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program that must succeed, and return what it printed."""
    child = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, check=False, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has or would add: building in the checkout itself would leave files."""
    copy = tmp_path_factory.mktemp("wheel") / "checkout"
    listed = done("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in listed.rstrip("\0").split("\0"):
        if os.path.lexists(ROOT / name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    """The wheel of this checkout, built with the locked setuptools and nothing else."""
    done(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--wheel-dir", "..", "."),
        cwd=checkout,
    )
    (built,) = checkout.parent.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The bin folder of an environment that holds the wheel and the locked dependencies only."""
    place = wheel.parent / "environment"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    lock = ROOT / "requirements.lock"
    done(python, *INSTALL, "--require-hashes", "--only-binary", ":all:", "-r", lock, cwd=place)
    done(python, *INSTALL, "--no-deps", "--no-index", wheel, cwd=place)
    return python.parent


@pytest.fixture
def empty(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """An empty folder, and an environment that knows nothing but an empty HOME."""
    for name in ("home", "folder"):
        (tmp_path / name).mkdir()
    return tmp_path / "folder", {"HOME": str(tmp_path / "home"), "PATH": os.defpath}


def test_the_wheel_claims_one_name(wheel: Path) -> None:
    """Nothing of ours lies beside the package, where `vagrant` would shadow a library."""
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "build_orchestrator"
    }


def test_the_wheel_carries_every_file(wheel: Path, checkout: Path) -> None:
    """Each file of the package and of the script folders is in the wheel, with the same bytes."""
    archive = zipfile.ZipFile(wheel)
    package = checkout / "build_orchestrator"
    expected = {
        f"build_orchestrator/{path.relative_to(package)}": path
        for path in package.rglob("*")
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
    }
    for name in CARRIED:
        shipped = checkout / name
        for path in [shipped, *shipped.rglob("*")]:
            if path.is_file():
                expected[f"build_orchestrator/_project/{path.relative_to(checkout)}"] = path

    carried = {name for name in archive.namelist() if name.startswith("build_orchestrator/")}
    assert carried == expected.keys()
    assert [
        name for name, path in expected.items() if archive.read(name) != path.read_bytes()
    ] == []


def test_an_installed_script_can_still_be_run(installed: Path, checkout: Path) -> None:
    """provision.sh is executable after its way through the wheel."""
    python = installed / "python"
    code = "import build_orchestrator as b; print(b.__path__[0])"
    package = Path(done(python, "-I", "-c", code, cwd=installed).strip())
    script = package / "_project" / "provision" / "provision.sh"

    assert (checkout / "provision" / "provision.sh").stat().st_mode & 0o111
    assert script.stat().st_mode & 0o111


def test_help_needs_no_project(installed: Path, empty: tuple[Path, dict[str, str]]) -> None:
    """`build --help` and `python -m build_orchestrator --help` say the same, and leave no file."""
    folder, environment = empty
    script = done(installed / "build", "--help", cwd=folder, env=environment)
    module = done(
        installed / "python", "-m", "build_orchestrator", "--help", cwd=folder, env=environment
    )

    assert "Usage: build " in script
    assert module == script
    assert list(folder.iterdir()) == []
    assert list(Path(environment["HOME"]).iterdir()) == []


def test_list_says_what_is_missing(installed: Path, empty: tuple[Path, dict[str, str]]) -> None:
    """`build list` outside a project is a usage error that names the file, without a trace."""
    folder, environment = empty
    child = subprocess.run(
        [installed / "build", "list"],
        cwd=folder, env=environment, capture_output=True, check=False, text=True,
    )  # fmt: skip

    assert child.returncode == 2
    assert "targets.yaml" in child.stderr
    assert "Traceback" not in child.stderr
    assert child.stdout == ""


def test_a_project_of_one_file_can_be_planned(
    installed: Path, empty: tuple[Path, dict[str, str]]
) -> None:
    """The scripts and packager.yaml of the wheel serve a project that has none of its own."""
    folder, environment = empty
    rows = yaml.safe_load((ROOT / "targets.yaml").read_text())
    agent = rows["recipes"]["agent"]
    agent["inputs"].remove("build_orchestrator/agent/")  # For plain Vagrant; not in a wheel's data.
    (folder / "targets.yaml").write_text(
        yaml.safe_dump({**rows, "recipes": {"agent": agent}, "flavours": rows["flavours"]})
    )
    shown = done(installed / "build", "plan", "debian_bookworm_qemu", cwd=folder, env=environment)
    assert "provision/provision.sh" in shown
