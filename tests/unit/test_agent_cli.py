"""`cfy-ap` and `create`: the original's options and numbers, and what a dry run leaves alone."""

from __future__ import annotations

import errno
import inspect
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from build_orchestrator import agent, packager
from build_orchestrator.agent import addresses, children, names, windows
from build_orchestrator.agent.cli import parser, run
from build_orchestrator.agent.config import load
from build_orchestrator.agent.errors import Code, PackagerError, without_passwords
from build_orchestrator.agent.installer import Installer, Sources
from build_orchestrator.agent.packager import Options, Packager, create
from build_orchestrator.agent.signals import Stopped, heard
from build_orchestrator.cli import run as build

CORE = """\
distribution: D
release: r
interpreter: system
core_modules: {cloudify_common: no-such==1}
"""
TELLTALE = """\
#!/bin/sh
# Plays uv: shows its arguments and the file that is the last of them, and fails.
echo "$@"
for file; do :; done
cat "$file"
exit 3
"""
TAR = "D-r-agent.tar.gz"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a configuration and no name in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("VERSION", "PRERELEASE", "BUILD"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.yaml").write_text(CORE)
    return tmp_path


def files(folder: Path) -> list[tuple[str, bytes]]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.read_bytes()) for path in paths]


@pytest.mark.parametrize("options", [[], ["-f"]])
def test_a_dry_run_changes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """Not even with -f; a tar that is there stays, and is in nobody's way."""
    (folder / TAR).write_text("an agent")
    (folder / "cloudify/env").mkdir(parents=True)
    before = files(folder)

    assert run(["-d", *options]) == 0

    said = json.loads(capsys.readouterr().out)
    assert said["output_tar"] == str(folder / TAR)
    assert said["modules"] == [{"name": "cloudify-common", "source": "no-such==1"}]
    assert files(folder) == before


def with_tar(folder: Path) -> None:
    (folder / TAR).touch()


def with_folder_for_lock(folder: Path) -> None:
    (folder / "D-r-agent.requirements.lock").mkdir()


def with_environment(folder: Path) -> None:
    (folder / "cloudify/env").mkdir(parents=True)


def with_file_in_the_way(folder: Path) -> None:
    (folder / "out").touch()


def with_(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.yaml").write_text(text)

    return write


NUMBERS: list[tuple[Code, list[str], Callable[[Path], None]]] = [
    (Code.COULD_NOT_CREATE_VIRTUALENV, [], with_(CORE + "python_path: /nowhere/python3\n")),
    (Code.VIRTUALENV_ALREADY_EXISTS, [], with_environment),
    (Code.COULD_NOT_DOWNLOAD_FILE, [], with_(CORE + "requirements_file: http://127.0.0.1:9/r\n")),
    (Code.MISSING_CLOUDIFY_AGENT_CONFIG, [], with_("additional_modules: [x]\nrelease: r\n")),
    (Code.COULD_NOT_INSTALL_MODULE, ["--offline"], with_(CORE)),
    (Code.COULD_NOT_INSTALL_MODULE, ["--wheelhouse", "none"], with_(CORE)),
    (Code.FAILED_TO_CREATE_TAR, ["-o", "out/folder"], with_file_in_the_way),
    (Code.TAR_ALREADY_EXISTS, [], with_tar),
    (Code.TAR_ALREADY_EXISTS, ["-f"], with_folder_for_lock),
    (Code.COULD_NOT_ACCESS_CONFIG_FILE, ["-c", "none.yaml"], with_(CORE)),
    (Code.INVALID_YAML_FILE, [], with_("core_module: {}\n")),
    (Code.INVALID_YAML_FILE, ["-o", "out"], with_(CORE + "output_tar: ../out.tar.gz\n")),
    (Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE, [], with_(CORE + "requirements_file: none\n")),
    (Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE, ["--locked", "none"], with_(CORE)),
]


def test_a_mistake_leaves_an_environment_alone(folder: Path) -> None:
    """Even with -f: it goes only when there is something to take its place."""
    with_environment(folder)
    (folder / "config.yaml").write_text(CORE + "requirements_file: none\n")

    assert run(["-f"]) == Code.COULD_NOT_INSTALL_FROM_REQUIREMENTS_FILE

    assert (folder / "cloudify/env").is_dir()


@pytest.mark.parametrize(
    ("number", "options", "prepare"),
    NUMBERS,
    ids=[f"{n.name}-{i}" for i, (n, _, _) in enumerate(NUMBERS)],
)
def test_each_failure_has_its_number(
    folder: Path, capsys: pytest.CaptureFixture[str], number: Code,
    options: list[str], prepare: Callable[[Path], None],
) -> None:  # fmt: skip
    """As words and never as a trace; and no tar is left that was not there."""
    prepare(folder)

    assert run(options) == number

    said = capsys.readouterr().err
    assert said.startswith("cfy-ap: ")
    assert "Traceback" not in said
    assert [path.name for path in folder.rglob("*.tar.gz") if path.stat().st_size] == []


def test_a_tar_is_there_only_with_its_lock(folder: Path) -> None:
    """A build that has failed leaves none, where there was no room for the lock, too."""
    (folder / "cloudify/env").mkdir(parents=True)
    (folder / ".D-r-agent.requirements.lock.part").mkdir()

    with pytest.raises(PackagerError, match="lock: could not be written") as raised:
        Packager(load(folder / "config.yaml"), folder, Options())._pack("lock")

    assert raised.value.code == Code.FAILED_TO_CREATE_TAR
    assert not (folder / TAR).exists()


def test_a_zip_is_there_only_with_its_lock(folder: Path) -> None:
    """As a tar is."""
    (folder / "made").mkdir()
    (folder / "made/python.exe").touch()
    stands_in_the_way = folder / ".agent.requirements.lock.part"
    stands_in_the_way.mkdir()

    with pytest.raises(PackagerError, match="lock: could not be written"):
        windows.pack(folder / "made", folder / "agent.zip", "a lock")

    assert not (folder / "agent.zip").exists()
    stands_in_the_way.rmdir()
    windows.pack(folder / "made", folder / "agent.zip", "a lock")
    assert (folder / "agent.requirements.lock").read_text() == "a lock"
    with zipfile.ZipFile(folder / "agent.zip") as archive:
        assert archive.namelist() == ["cloudify/env/python.exe"]


def test_a_full_disk_is_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever on the way it was met; number 1, which a trace would end with as well."""

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "cloudify/env")

    monkeypatch.setattr("build_orchestrator.agent.packager.create", full)
    monkeypatch.setattr(windows, "build", lambda *_: full())
    names = ("--config", "--output", "--folder", "--made")

    assert run([]) == Code.COULD_NOT_CREATE_VIRTUALENV
    assert windows.main([f"{name}=x" for name in names]) == Code.COULD_NOT_CREATE_VIRTUALENV
    said = capsys.readouterr().err
    words = "this machine failed: [Errno 28] No space left on device: 'cloudify/env'"
    assert [line for line in said.splitlines() if not line.startswith(" ")] == [
        f"cfy-ap: {words}",
        f"provision: {words}",
    ]


@pytest.mark.parametrize(
    "asked",
    ["requirements_file: http://h.example/r.txt", "additional_modules: ['x @ http://h.example/x']"],
)
def test_offline_fetches_no_address(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    """Neither does the packager itself, nor pip, which fetches addresses without any index, too."""
    monkeypatch.setattr(addresses, "fetch", lambda *_: pytest.fail("it was fetched"))
    monkeypatch.setattr(children, "find", lambda _: None)
    monkeypatch.setattr(children, "run", lambda *_, **__: pytest.fail("pip was called"))
    (folder / "config.yaml").write_text(f"{CORE}{asked}\n")

    assert run(["--offline"]) == Code.INVALID_YAML_FILE

    said = capsys.readouterr().err
    assert "cannot be fetched with --offline" in said
    assert "http://h.example" in said


def test_a_machine_without_a_name_has_its_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Number 8, also of a dry run, unless the settings name it."""
    monkeypatch.setattr(names.os_release, "__defaults__", ((),))
    (folder / "config.yaml").write_text("core_modules: {cloudify_common: x}\nrelease: r\n")

    assert run(["-d"]) == Code.COULD_NOT_IDENTIFY_DISTRIBUTION
    assert "Give distribution and release" in capsys.readouterr().err
    with_(CORE)(folder)
    assert run(["-d"]) == 0


def test_a_tar_may_be_said_to_lie_elsewhere(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`output_tar` is a path, from the current folder, and may be called in any way."""
    for said, expected in (("a b/x.tgz", folder / "a b/x.tgz"), ("/x/y", Path("/x/y"))):
        (folder / "config.yaml").write_text(f"{CORE}output_tar: {said}\n")
        assert run(["-d"]) == 0
        assert json.loads(capsys.readouterr().out)["output_tar"] == str(expected)


def test_the_numbers_are_those_of_the_original() -> None:
    """Of its release 4, by name; scripts ask for them."""
    assert [code.name.lower() for code in sorted(Code)] == [
        "dryrun_complete", "could_not_create_virtualenv", "virtualenv_already_exists",
        "could_not_download_file", "missing_cloudify_agent_config", "could_not_uninstall_module",
        "could_not_install_module", "failed_to_create_tar", "could_not_identify_distribution",
        "tar_already_exists", "installation_validation_failed", "could_not_access_config_file",
        "invalid_yaml_file", "could_not_install_from_requirements_file",
    ]  # fmt: skip
    assert sorted(Code) == list(range(14))


def test_what_cannot_be_uninstalled_has_its_number(folder: Path) -> None:
    """Number 5, with what the child said."""
    with pytest.raises(PackagerError, match="x could not be uninstalled") as raised:
        Installer(folder / "no-python", folder).uninstall("x")
    assert raised.value.code == Code.COULD_NOT_UNINSTALL_MODULE


def test_what_a_child_said_is_told_without_its_passwords(folder: Path) -> None:
    """The original lost the words of pip; here they are in the error, and no credential is."""
    (folder / "uv").write_text(TELLTALE)
    (folder / "uv").chmod(0o755)
    installer = Installer(Path("python3"), folder, Sources(offline=True), uv=str(folder / "uv"))

    with pytest.raises(PackagerError) as raised:
        installer.install("https://me:hidden@host.example/x.zip")

    assert "status 3" in raised.value.details
    assert "https://***@host.example/x.zip" in raised.value.details, "from the file"
    assert raised.value.details.count("host.example") == 1, "and not from an argument"
    assert "hidden" not in str(raised.value)


def test_no_part_of_a_password_is_told() -> None:
    """An @ in it does not end it, for what fetches; and last words may begin within it."""
    assert without_passwords("https://me:hid@den@h.example/x@1") == "https://***@h.example/x@1"
    said = f"print('https://me:' + 'hidden@h.example/' + 'x' * {children.ENDING - 15}); exit(3)"

    with pytest.raises(PackagerError) as raised:
        children.run([sys.executable, "-c", said], code=1, failed="failed")

    assert "den@" not in raised.value.details.partition("\n")[2]


def test_what_builds_for_uv_compiles_itself_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the user has set: on an emulated machine that is a third of the time."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    assert "PYTHONDONTWRITEBYTECODE" not in Installer(Path("python"), folder, uv="uv").environment()


def test_no_path_is_a_shells_business(folder: Path) -> None:
    """Spaces and worse in a path are a part of it."""
    place = folder / "a b; touch harmed $(touch harmed)"
    place.mkdir()
    (place / "config.yaml").write_text(CORE + "python_path: ./no; touch harmed\n")

    with pytest.raises(PackagerError):
        create(config_file=place / "config.yaml", output=place)

    assert not list(folder.rglob("harmed"))


def test_the_command_line_is_that_of_the_original() -> None:
    """Short and long."""
    actions = parser()._actions
    known = {word for action in actions for word in action.option_strings}

    assert {"-c", "--config", "-f", "--force", "-d", "--dryrun", "-n", "--no-validation", "-v",
            "--verbose", "--version", "-h"} <= known  # fmt: skip


def test_a_dry_run_shows_no_password(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an address with one in it."""
    (folder / "config.yaml").write_text(
        CORE + "cloudify_agent_module: https://me:hidden@h.example/a\n"
    )

    assert run(["-d"]) == 0

    said = capsys.readouterr().out
    assert "https://***@h.example/a" in said
    assert "hidden" not in said


def test_create_takes_a_dict(folder: Path) -> None:
    """And VERSION of the environment, unless the dict has its own."""
    config = {"distribution": "D", "release": "r", "cloudify_agent_version": "x", "version": "2"}

    assert create(config=config, dryrun=True) == folder / "D-r-agent_2.tar.gz"
    taken = list(inspect.signature(create).parameters.values())[:6]
    assert [(each.name, each.default) for each in taken] == [
        ("config", None), ("config_file", None), ("force", False), ("dryrun", False),
        ("no_validate", False), ("verbose", True),
    ]  # fmt: skip


def test_build_agent_has_the_exit_codes_of_build(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The user's mistake is 2, this host's lack 4; and the words are the same."""
    (folder / "packager.yaml").write_text("core_modles: {}\n")
    assert build(["agent"]) == 2
    assert "packager.yaml:1:1: core_modles: unknown key, did you mean core_modules?" in (
        capsys.readouterr().err
    )
    (folder / "packager.yaml").write_text(CORE + "python_path: /nowhere/python3\n")
    assert build(["agent"]) == 4
    (folder / "packager.yaml").write_text(CORE)
    assert build(["agent", "--offline"]) == 1
    assert build(["agent", "--wheelhouse", "none"]) == 2
    assert build(["agent", "--dryrun"]) == 0


def test_the_source_alone_runs_by_its_path(folder: Path) -> None:
    """As in a synced folder, where nobody has made one file of it, and nothing of ours is near."""
    place = folder / "inputs/build_orchestrator/agent"
    shutil.copytree(
        Path(agent.__file__).parent, place, ignore=shutil.ignore_patterns("__pycache__")
    )

    done = subprocess.run(
        [sys.executable, "-B", place, "-d", "-c", folder / "config.yaml"],
        cwd="/", capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert json.loads(done.stdout)["output_tar"] == f"/{TAR}"


@pytest.mark.parametrize("library", packager.LIBRARIES)
def test_what_is_in_the_file_runs_on_the_oldest_python(library: str) -> None:
    """By its own word: `make lint` looks only at what is ours."""
    (name,) = set(metadata.packages_distributions()[library])
    wanted = metadata.metadata(name)["Requires-Python"]

    assert SpecifierSet(wanted).contains("3.8.0")


def test_the_file_for_machines_is_whole_and_always_the_same() -> None:
    """The package, its libraries and nothing compiled, in one order and with no time."""
    content = packager.content.__wrapped__()

    assert content == packager.content()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
    assert names == sorted(names)
    assert {name.split("/")[0] for name in names} == {
        "__main__.py", "build_orchestrator", "packaging", "yaml",
    }  # fmt: skip
    assert "build_orchestrator/agent/cli.py" in names
    assert not [name for name in names if not name.endswith(".py")]


ENDLESS = """\
#!/bin/sh
# Plays uv: as a build backend's compiler, what it starts hears no Ctrl-C.
echo $$ >> "$PIDS"
sleep 300 &
echo $! >> "$PIDS"
wait
"""


def lives(pid: str) -> bool:
    """Whether a process works on; one that nobody has reaped yet does not."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("cfy-ap", signal.SIGINT),
        ("cfy-ap", signal.SIGHUP),
        ("build agent", signal.SIGTERM),
        ("build wagon", signal.SIGINT),
        ("wagon", signal.SIGTERM),
    ],
)
def test_a_signal_leaves_a_line_and_nothing_else(
    folder: Path, command: str, number: signal.Signals
) -> None:
    """No trace, no folder, and nobody who works on."""
    (folder / "bin").mkdir()
    (folder / "tmp").mkdir()
    for name in ("uv", "pip"):
        (folder / "bin" / name).write_text(ENDLESS)
        (folder / "bin" / name).chmod(0o755)
    arguments = {
        "cfy-ap": ["-m", "build_orchestrator.agent"],
        "build agent": ["-m", "build_orchestrator", "agent", "-c", "config.yaml"],
        "build wagon": ["-m", "build_orchestrator", "wagon", "create", "x", "--pip", "bin/pip"],
        "wagon": ["-m", "build_orchestrator.agent.wagon", "create", "x", "--pip", "bin/pip"],
    }[command]
    pids = folder / "pids"
    before = files(folder)
    with subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "PIDS": str(pids),
             "TMPDIR": str(folder / "tmp"), "PYTHONPATH": str(Path(agent.__file__).parents[2])},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        while not pids.exists() or pids.read_text().count("\n") < 2:
            assert child.poll() is None, child.communicate()[1]
            time.sleep(0.01)
        child.send_signal(number)
        said = child.communicate()[1]

    assert child.returncode == 128 + number
    assert said == f"{command.split()[0]}: stopped by {number.name}\n"
    end = time.monotonic() + 5
    while alive := [pid for pid in pids.read_text().split() if lives(pid)]:
        assert time.monotonic() < end, alive
        time.sleep(0.01)
    pids.unlink()
    assert (files(folder), list((folder / "tmp").iterdir())) == (before, [])
    assert not (folder / "cloudify").exists()


def test_a_child_that_is_being_started_is_ended_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes before anybody knows of the child."""
    started: list[subprocess.Popen[bytes]] = []

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    with heard(), pytest.raises(Stopped, match="stopped by SIGTERM"):
        children.run(["sleep", "300"], code=1, failed="")
    assert started[0].returncode in (-signal.SIGINT, -signal.SIGKILL)
