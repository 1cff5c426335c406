"""build-agent: what packager.yaml may say, how artifacts are named, what a tar holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

PROVISION = Path(__file__).parents[2] / "provision"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """build-agent as a module, working below tmp_path."""
    path = PROVISION / "build-agent"
    monkeypatch.setattr(sys, "argv", [str(path), "packager.yaml", str(tmp_path / "tools")])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("BUILD_WORK", str(tmp_path / "work"))
    for name in ("VERSION", "PRERELEASE", "BUILD"):
        monkeypatch.delenv(name, raising=False)
    module = types.ModuleType("build_agent")
    monkeypatch.setitem(sys.modules, "build_agent", module)
    exec(compile(path.read_text(), path, "exec"), module.__dict__)
    return module


def config_of(agent: types.ModuleType, tmp_path: Path, text: str) -> Any:
    (tmp_path / "packager.yaml").write_text(text)
    return agent.load(tmp_path / "packager.yaml")


def test_the_shipped_packager_yaml_is_valid(agent: types.ModuleType) -> None:
    """And it asks for cloudify-common, exactly."""
    config = agent.load(PROVISION.parent / "packager.yaml")
    asked = agent.modules(config, PROVISION.parent)
    assert agent.Module("cloudify-common", "cloudify-common==7.0.5") in asked


def test_every_problem_of_packager_yaml_is_named_at_once(
    agent: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown keys with the nearest name, wrong kinds and repeated keys, each with its line."""
    text = 'core_module: {}\nrelease: 22.10\nkeep_virtualenv: "no"\nbuild: "1"\nbuild: "2"\n'
    with pytest.raises(SystemExit) as stopped:
        config_of(agent, tmp_path, text + "additional_modules: {}\ncore_plugins: {a: 1}\n")
    assert stopped.value.code == 78
    assert capsys.readouterr().err.splitlines()[1:] == [
        "  packager.yaml:1: core_module: unknown key, did you mean core_modules?",
        '  packager.yaml:2: release: a string is needed; write it in quotes: "22.10"',
        "  packager.yaml:3: keep_virtualenv: true or false is needed",
        "  packager.yaml:5: build: given twice",
        "  packager.yaml:6: additional_modules: a list of requirements, URLs or paths is needed",
        "  packager.yaml:7: core_plugins: " + agent.NEEDED["Sources"],
    ]


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "\x00"])
def test_what_is_no_mapping_is_refused(agent: types.ModuleType, tmp_path: Path, text: str) -> None:
    """Nothing, a list and broken YAML end with the status for a wrong configuration."""
    with pytest.raises(SystemExit) as stopped:
        config_of(agent, tmp_path, text)
    assert stopped.value.code == 78


@pytest.mark.parametrize(
    ("os_release", "machine", "expected"),
    [
        ('ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm', "x86_64", ("Debian", "bookworm")),
        ('ID=debian\nVERSION_ID="8"\nVERSION="8 (jessie)"', "x86_64", ("Debian", "jessie")),
        ("ID=debian\nVERSION_CODENAME=trixie", "aarch64", ("Debian", "trixie-arm64")),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION="24.04 LTS (Noble Numbat)"\nVERSION_CODENAME=noble',
         "x86_64", ("Ubuntu", "noble")),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"', "x86_64", ("Rocky", "9")),
        ('ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"', "x86_64", ("CentOS", "7")),
        ('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="8.10"', "x86_64", ("RedHat", "8")),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"',
         "x86_64", ("openSUSE", "15.6")),
    ],
)  # fmt: skip
def test_distribution_and_release_come_from_the_machine(
    agent: types.ModuleType, os_release: str, machine: str, expected: tuple[str, str]
) -> None:
    """A codename, else the release as artifacts name it; another architecture is added."""
    pairs = (line.split("=", 1) for line in os_release.splitlines())
    about = {key: value.strip('"') for key, value in pairs}
    assert agent.distribution_and_release(about, machine) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "Debian-bookworm-agent.tar.gz"),
        ({"version": "3.3.0", "milestone": "m4", "build": "666"},
         "Debian-bookworm-agent_3.3.0-m4-b666.tar.gz"),
        ({"version": "3.3.0", "build": "666"}, "Debian-bookworm-agent_3.3.0-b666.tar.gz"),
        ({"milestone": "m4", "build": "666"}, "Debian-bookworm-agent.tar.gz"),
        ({"distribution": "Debian GNU/Linux"}, "Debian-GNU-Linux-bookworm-agent.tar.gz"),
        ({"output_tar": "mine.tar.gz", "version": "1"}, "mine.tar.gz"),
    ],
)  # fmt: skip
def test_the_name_rule(agent: types.ModuleType, given: dict[str, str], expected: str) -> None:
    """The original rule, with what a file name cannot hold made safe."""
    about = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
    assert agent.archive_name(agent.Config(**given), about, "x86_64") == expected


def test_modules_leave_out_what_is_false_or_excluded(
    agent: types.ModuleType, tmp_path: Path
) -> None:
    """Such a plugin comes, if at all, as a dependency; names become those of distributions."""
    text = "core_plugins: {a_b: false, c: exclude, d_e: d-e==1}\nadditional_modules: [f==2]\n"
    asked = agent.modules(config_of(agent, tmp_path, text), tmp_path)
    assert [(module.name, module.source) for module in asked] == [("d-e", "d-e==1"), ("", "f==2")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cloudify_agent_version: master", "/archive/master.tar.gz"),
        ('cloudify_agent_module: "7.1.0"', "/archive/7.1.0.tar.gz"),
        ("cloudify_agent_module: https://host.example/a.zip", "https://host.example/a.zip"),
        ("cloudify_agent_module: src/agent\ncloudify_agent_version: master", "/sources/agent"),
    ],
)
def test_the_agent_is_a_version_a_url_or_a_path(
    agent: types.ModuleType, tmp_path: Path, text: str, expected: str
) -> None:
    """The module wins over the version, and a folder is copied before anything builds in it."""
    (tmp_path / "src/agent").mkdir(parents=True)
    (module,) = agent.modules(config_of(agent, tmp_path, text), tmp_path)
    assert module.name == "cloudify-agent"
    assert module.source.endswith(expected)


def test_a_path_that_is_not_there_is_named(
    agent: types.ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any virtualenv is made."""
    with pytest.raises(SystemExit):
        agent.located("vendor/none", tmp_path)
    assert "vendor/none: there is no such file or folder" in capsys.readouterr().err


def installed(tmp_path: Path, name: str, version: str, origin: str = "") -> metadata.Distribution:
    folder = tmp_path / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if origin:
        (folder / "direct_url.json").write_text(json.dumps({"url": origin}))
    return metadata.PathDistribution(folder)


@pytest.mark.parametrize(
    ("name", "source", "wrong"),
    [
        ("", "cloudify-agent-packager==1.0", []),
        ("", "Cloudify_Agent.Packager>=1,<2", []),
        ("", "cloudify-agent-packager==1.1",
         ["cloudify-agent-packager: 1.0 is installed, cloudify-agent-packager==1.1 was asked for"]),
        ("cloudify-agent", "https://host.example/x.tar.gz", ["cloudify-agent: not installed"]),
        ("", "other; python_version < '3'", []),
        ("", "https://host.example/named.zip", []),
        ("", "https://host.example/else.zip",
         ["https://host.example/else.zip: nothing was installed from it"]),
    ],
)  # fmt: skip
def test_validation_goes_by_metadata(
    agent: types.ModuleType, tmp_path: Path, name: str, source: str, wrong: list[str]
) -> None:
    """Exact names and versions: no name counts because it begins like another."""
    there = {
        "cloudify-agent-packager": installed(tmp_path, "cloudify_agent_packager", "1.0"),
        "named": installed(tmp_path, "named", "1", "https://host.example/named.zip"),
    }
    assert list(agent.missing(agent.Module(name, source), there)) == wrong


def virtualenv(agent: types.ModuleType) -> Path:
    """A small virtualenv as an installer leaves it, full of what must not be packed."""
    env: Path = agent.ENV
    site = env / "lib/python3.11/site-packages"
    info = site / "thing-1.dist-info"
    for folder in (env / "bin", site / "thing/__pycache__", info):
        folder.mkdir(parents=True)
    (env / "pyvenv.cfg").write_text(f"home = /usr/bin\nuv = 1.2\ncommand = python -m venv {env}\n")
    (env / "bin/python").symlink_to(sys.executable)
    (env / "bin/thing").write_text(f"#!{env}/bin/python3\nimport sys; print(sys.argv[1])\n")
    (env / "bin/thing").chmod(0o700)
    (env / "bin/activate").write_text(f"VIRTUAL_ENV={env}\n")
    (env / "CACHEDIR.TAG").touch()
    (site / "thing/__init__.py").write_text("x = 1\n")
    (site / "thing/__pycache__/__init__.cpython-311.pyc").touch()
    (info / "direct_url.json").write_text("{}")
    rows = ["thing/__init__.py,,", "thing/__pycache__/__init__.cpython-311.pyc,,",
            "../../../bin/thing,sha256=old,1", "thing-1.dist-info/direct_url.json,,",
            "thing-1.dist-info/RECORD,,"]  # fmt: skip
    (info / "RECORD").write_text("\r\n".join(rows) + "\r\n")
    return env


def test_nothing_of_the_build_is_left_in_the_virtualenv(agent: types.ModuleType) -> None:
    """No caches, notes, times or paths; RECORD lists what is there, sorted, with true hashes."""
    env = virtualenv(agent)
    agent.normalise()
    files = sorted(path.relative_to(env).as_posix() for path in env.rglob("*") if not path.is_dir())
    site = "lib/python3.11/site-packages"
    assert files == ["bin/python", "bin/thing", f"{site}/thing-1.dist-info/RECORD",
                     f"{site}/thing/__init__.py", "pyvenv.cfg"]  # fmt: skip
    assert (env / "pyvenv.cfg").read_text() == "home = /usr/bin\n"
    texts = [(env / name).read_bytes() for name in files[1:]]
    assert not [text for text in texts if str(env).encode() in text]
    lines = (env / site / "thing-1.dist-info/RECORD").read_text().splitlines()
    assert lines == sorted(lines)
    assert lines[0].startswith("../../../bin/thing,sha256=")
    assert lines[0].endswith(f",{(env / 'bin/thing').stat().st_size}")
    assert "old" not in lines[0]
    assert len(lines) == 3


def test_a_script_finds_its_interpreter_anywhere(agent: types.ModuleType, tmp_path: Path) -> None:
    """After a move, also to a folder with a space, a console script runs."""
    env = virtualenv(agent)
    agent.normalise()
    moved = env.rename(tmp_path / "an other place")
    said = subprocess.run([moved / "bin/thing", "a b"], capture_output=True, text=True, check=True)
    assert said.stdout == "a b\n"


def test_the_same_virtualenv_gives_the_same_bytes(agent: types.ModuleType, tmp_path: Path) -> None:
    """Whatever its files' times, owners' modes and order of creation are."""
    env = virtualenv(agent)
    agent.normalise()
    agent.pack(tmp_path / "one.tar.gz", 1704067200)
    for path in env.rglob("*"):
        os.utime(path, (5, 5), follow_symlinks=False)
    (env / "pyvenv.cfg").chmod(0o600)
    copy = shutil.copytree(env, tmp_path / "copy", symlinks=True)
    shutil.rmtree(env)
    shutil.copytree(copy, env, symlinks=True)
    agent.pack(tmp_path / "two.tar.gz", 1704067200)
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert all(member.name.startswith("cloudify/env/") for member in members)
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {
        (1704067200, 0, 0, "")
    }
    assert {oct(member.mode) for member in members} == {"0o755", "0o644", "0o777"}
    assert not list(tmp_path.glob(".*.part"))
