"""Wagons with the real pip, the real auditwheel, and the original tool."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from build_orchestrator import packager
from build_orchestrator.agent.wagon import create, install, show
from tests.conftest import require
from tests.wheels import make_source, make_wheel

ORIGINAL = "wagon==1.0.3"
OFFLINE = "--wheel-args=--no-index --no-build-isolation --find-links={}"


def done(*argv: str | Path, cwd: Path, **variables: str) -> str:
    """Run a program that must succeed, and return what it printed."""
    mine = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env = {**mine, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    child = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, check=False, text=True)
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout.strip()


def wagon(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    """Run `build wagon`."""
    return done(
        *(sys.executable, "-m", "build_orchestrator", "wagon"), *arguments, cwd=cwd, **variables
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment to install into."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    return place


def imported(environment: Path, module: str) -> str:
    """The version of a module in an environment; it is taken out again."""
    python = environment / "bin/python"
    version = done(python, "-I", "-c", f"import {module}; print({module}.VERSION)", cwd=environment)
    name = module.replace("_", "-")
    done(python, "-I", "-m", "pip", "uninstall", "-q", "-y", name, cwd=environment)
    return version


def test_a_project_becomes_the_same_wagon_twice_and_installs_offline(
    tmp_path: Path, environment: Path
) -> None:
    """From a pyproject.toml alone, at two places; with what it needs, no network, no leftovers."""
    make_wheel(tmp_path / "wheels", "thing", "1.4", python=">=3.6")
    make_wheel(tmp_path / "wheels", "tool", "3.0")
    (tmp_path / "more.txt").write_text("tool\n")
    (tmp_path / "plugin.yaml").write_text("plugins: {}\n")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    made = []
    for place in ("one", "a longer place"):
        source = make_source(tmp_path / place / "my-plugin", needs=("thing>=1",))
        before = sorted(source.rglob("*"))
        path = wagon(
            *("create", source, "-r", "more.txt", "-o", tmp_path / place, "--build-tag", "7"),
            *("--pyver", "py3", "--pyver", "27", "--keep-wheels"),
            *(["--validate"] if place == "one" else []),
            *(OFFLINE.format(tmp_path / "wheels"), "--add-file", "plugin.yaml"),
            cwd=tmp_path,
            TMPDIR=str(temporary),
        )
        assert sorted(source.rglob("*")) == before
        made.append(Path(path))

    assert made[0].name == "my_plugin-2.0-7-py3.py27-none-any.wgn"
    assert made[0].read_bytes() == made[1].read_bytes()
    assert sorted(path.name[:5] for path in (tmp_path / "one").glob("*-wheels/*")) == [
        "my_pl", "thing", "tool-",
    ]  # fmt: skip
    says = json.loads(wagon("show", made[0], cwd=tmp_path))
    assert (says["package_source"], says["files"]) == ("my-plugin", ["plugin.yaml"])
    variables = {"TMPDIR": str(temporary), "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    make_wheel(tmp_path / "newer", "my-plugin", "3.0")
    newer = f"--install-args=--find-links {tmp_path / 'newer'}"
    install = ("install", made[0], "-r", "more.txt", newer, "--venv", environment)
    wagon(*install, cwd=tmp_path, **variables)
    assert imported(environment, "my_plugin") == "2.0"
    assert imported(environment, "thing") == "1.4"
    assert imported(environment, "tool") == "3.0"
    assert list(temporary.iterdir()) == []


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Of an archive as GitHub serves it: one folder, and a name that says little."""
    make_source(tmp_path / "served/my-plugin-master", needs=("thing",))
    packed = shutil.make_archive(
        str(tmp_path / "served/master"), "zip", tmp_path / "served", "my-plugin-master"
    )
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(Path(packed).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/master.zip"
        server.shutdown()


OTHER_PIP = """\
#!/bin/sh
# The pip of another Python, as far as it says.
case $1 in
--version) echo 'pip 25 from /there (python 3.9)' ;;
*) exec {} -m pip "$@" ;;
esac
"""


def test_the_packagers_one_file_packs_an_address_for_several_pythons(
    tmp_path: Path, address: str
) -> None:
    """As inside a machine, with nothing of this project installed; a pure wheel is in it once."""
    (tmp_path / "cfy-ap.pyz").write_bytes(packager.content())
    make_wheel(tmp_path / "wheels", "thing", "1.4")
    (tmp_path / "pip3.9").write_text(OTHER_PIP.format(sys.executable))
    (tmp_path / "pip3.9").chmod(0o755)
    pips = [f"--pip={Path(sys.executable).with_name('pip')}", f"--pip={tmp_path / 'pip3.9'}"]

    path = done(
        *(sys.executable, "-m", "build_orchestrator.agent.wagon", "create", address, "-t"),
        *("tar.gz", *pips, OFFLINE.format(tmp_path / "wheels")),
        "--supported-platform=manylinux_2_17_x86_64",
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "cfy-ap.pyz"),
    )

    here = f"py{sys.version_info[0]}{sys.version_info[1]}"
    assert Path(path) == tmp_path / f"my_plugin-2.0-{here}.py39-none-manylinux_2_17_x86_64.wgn"
    says = json.loads(wagon("show", path, cwd=tmp_path))
    assert says["package_source"] == address
    assert says["supported_python_versions"] == [here, "py39"]
    assert [name.split("-")[0] for name in says["wheels"]] == ["my_plugin", "thing"]
    assert says["build_server_os_properties"]["distribution"] is not None
    with pytest.raises(AssertionError, match=r"none\.wgn: could not be fetched\n.*404"):
        wagon("show", address.replace("master.zip", "none.wgn"), cwd=tmp_path)


def test_a_name_and_an_archive_are_sources_too(tmp_path: Path, environment: Path) -> None:
    """A version of an index, and a wheel that lies here; by the Python calls."""
    wheels = [make_wheel(tmp_path / "wheels", "my-plugin", version) for version in ("1.9", "2.0")]
    here = functools.partial(
        create,
        wheel_args=f"--no-index --find-links={tmp_path / 'wheels'}",
        archive_destination_dir=tmp_path,
    )

    made = [here("my-plugin==1.9", python_versions=["3"]),
            here(str(wheels[1]), archive_format="tar.gz")]  # fmt: skip

    assert [show(str(path))["package_source"] for path in made] == [
        "my-plugin==1.9", "my_plugin-2.0-py3-none-any.whl",
    ]  # fmt: skip
    assert made[0].name == "my_plugin-1.9-py3-none-any.wgn"
    install(str(made[0]), venv=environment)
    install(str(made[1]), venv=environment, upgrade=True)
    assert imported(environment, "my_plugin") == "2.0"


def test_a_failed_pip_is_told_in_its_words(tmp_path: Path) -> None:
    """What pip could not find, and what to try; nothing is written."""
    source = make_source(tmp_path / "my-plugin", needs=("no-such-thing",))
    child = subprocess.run(
        [sys.executable, "-m", "build_orchestrator", "wagon", "create", str(source),
         "-o", str(tmp_path / "out"), OFFLINE.format(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, check=False, text=True,
    )  # fmt: skip

    assert child.returncode == 1
    assert "Failed to download wheels for: my_plugin-2.0" in child.stderr
    assert "No matching distribution found for no-such-thing" in child.stderr
    assert not (tmp_path / "out").exists()


def test_a_repaired_wagon_carries_its_libraries(tmp_path: Path, environment: Path) -> None:
    """A module in C with a library that no machine has: manylinux, copied, and it runs."""
    require("gcc")
    source = tmp_path / "native"
    source.mkdir()
    (source / "other.c").write_text('const char *other(void) { return "from a library"; }\n')
    library = tmp_path / "lib" / "libother.so"
    library.parent.mkdir()
    done("gcc", "-shared", "-fPIC", "-o", library, source / "other.c", cwd=tmp_path)
    (source / "native.c").write_text(
        "#include <Python.h>\nextern const char *other(void);\n"
        'static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "native", NULL, -1, NULL};\n'
        "PyMODINIT_FUNC PyInit_native(void) {\n    PyObject *made = PyModule_Create(&module);\n"
        '    PyModule_AddStringConstant(made, "VERSION", other());\n    return made;\n}\n'
    )
    (source / "setup.py").write_text(
        "from setuptools import Extension, setup\n"
        "module = Extension('native', ['native.c'], libraries=['other'],"
        f" library_dirs=[{str(library.parent)!r}])\n"
        "setup(name='native', version='0.1', ext_modules=[module])\n"
    )
    (tmp_path / "plugin.yaml").write_text("plugins: {}\n")
    more = ("--build-tag", "7", "--add-file", "plugin.yaml", OFFLINE.format(tmp_path))
    made = Path(wagon("create", source, *more, cwd=tmp_path))
    assert re.fullmatch(r"native-0\.1-7-py\d+-none-linux_x86_64\.wgn", made.name)

    path = wagon(
        *("repair", made, "-o", "repaired"), cwd=tmp_path, LD_LIBRARY_PATH=str(library.parent)
    )

    repaired = Path(path)
    assert re.fullmatch(r"native-0\.1-7-py\d+-none-manylinux\w*_x86_64\.wgn", repaired.name)
    assert wagon("list-files", repaired, cwd=tmp_path) == "plugin.yaml"
    library.unlink()
    assert wagon("validate", repaired, cwd=tmp_path) == "Validation Passed!"
    wagon("install", repaired, cwd=tmp_path, VIRTUAL_ENV=str(environment))
    assert imported(environment, "native") == "from a library"
    assert zipfile.is_zipfile(repaired)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original tool, in an environment of its own."""
    place = tmp_path_factory.mktemp("original")
    venv.create(place, with_pip=True)
    pip = (place / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check")
    child = subprocess.run([*pip, ORIGINAL, "distro", "setuptools", "wheel"], check=False,
                           capture_output=True, text=True)  # fmt: skip
    require(that=child.returncode == 0, because=f"{ORIGINAL} cannot be had: {child.stderr[-300:]}")
    return place


def test_the_original_installs_ours_and_we_install_its(
    tmp_path: Path, original: Path, environment: Path
) -> None:
    """Both tools read both, in either kind of archive, and agree on what they say."""
    make_wheel(tmp_path / "wheels", "thing", "1.4")
    source = make_source(tmp_path / "my-plugin", needs=("thing",))
    (source / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='my-plugin', version='2.0')\n"
    )
    theirs, python = original / "bin/wagon", original / "bin/python"
    for kind in ("zip", "tar.gz"):
        create = ("create", source, "-t", kind, "--pyver", "3")
        offline = OFFLINE.format(tmp_path / "wheels")
        (tmp_path / kind).mkdir()
        ours = Path(wagon(*create, offline, "-o", tmp_path / kind, cwd=tmp_path))
        done(theirs, *create, offline, "-o", "of-theirs", "-f", cwd=tmp_path)
        (its,) = (tmp_path / "of-theirs").glob("*.wgn")
        assert its.name == ours.name
        says = json.loads(done(theirs, "show", ours, cwd=tmp_path))
        also = json.loads(wagon("show", its, cwd=tmp_path))
        differ = {key for key in says if says[key] != also.get(key)}
        assert differ == {"checksums", "created_by_wagon_version", "package_source"}
        assert set(also) < set(says)

        assert wagon("validate", its, cwd=tmp_path) == "Validation Passed!"
        done(theirs, "install", ours, cwd=tmp_path)
        ran = "import my_plugin, thing; print(my_plugin.VERSION, thing.VERSION)"
        assert done(python, "-I", "-c", ran, cwd=tmp_path) == "2.0 1.4"
        done(python, "-m", "pip", "uninstall", "-q", "-y", "my-plugin", "thing", cwd=tmp_path)
        wagon("install", its, "--venv", environment, cwd=tmp_path)
        assert imported(environment, "my_plugin") == "2.0"
        assert imported(environment, "thing") == "1.4"
