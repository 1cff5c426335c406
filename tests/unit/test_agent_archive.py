"""What is packed: nothing of the build, the same bytes every time, scripts that can be moved."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from build_orchestrator.agent.archives import write_tar_gz, write_zip
from build_orchestrator.agent.compression import BLOCK, GzipWriter
from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.relocation import make_movable

TIME = 1704067200
SCRIPTS = ("thing", "longer", "coded", "coded-too")
SITE = "lib/python3.11/site-packages"


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """A small environment as an installer leaves it, full of what must not be packed."""
    env = tmp_path / "work/cloudify/env"
    info = env / SITE / "thing-1.dist-info"
    for folder in (env / "bin", env / SITE / "thing/__pycache__", info):
        folder.mkdir(parents=True)
    (env / "pyvenv.cfg").write_text(f"home = /usr/bin\nuv = 1.2\ncommand = python -m venv {env}\n")
    (env / "bin/python").symlink_to(sys.executable)
    script = "import sys; print(sys.argv[1])\n"
    (env / "bin/thing").write_text(f"#!{env}/bin/python3 -E -s\n{script}")
    long = f"#!/bin/sh\n'''exec' \"{env}/bin/python\" \"$0\" \"$@\"\n' '''\n"
    (env / "bin/longer").write_text(long + script)
    # As uv begins a script that declares its coding, where the path is long or has a space in it.
    octal = "".join(f"'\\'{ord(letter):04o} " for letter in f"{env}/bin/python")
    coded = (
        f"#!/bin/sh\n# coding: latin-1\n'''exec' \"$(printf %b {octal})\" \"$0\" \"$@\"\n' '''\n"
    )
    own = f"# -*- coding: latin-1 -*-\n{script}assert len('\xe4') == 1\n"
    (env / "bin/coded").write_bytes(f"{coded}{own}".encode("latin-1"))
    (env / "bin/coded-too").write_bytes(f"#!{env}/bin/python\n{own}".encode("latin-1"))
    (env / "bin/activate").write_text(f"VIRTUAL_ENV={env}\n")
    for name in SCRIPTS:
        (env / "bin" / name).chmod(0o700)
    (env / "CACHEDIR.TAG").touch()
    (env / SITE / "thing/__init__.py").write_text("x = 1\n")
    (env / SITE / "thing/__pycache__/__init__.cpython-311.pyc").touch()
    (info / "direct_url.json").write_text("{}")
    rows = ["thing/__init__.py,,", "thing/__pycache__/__init__.cpython-311.pyc,,",
            "../../../bin/thing,sha256=old,1", "thing-1.dist-info/direct_url.json,,",
            "thing-1.dist-info/RECORD,,"]  # fmt: skip
    (info / "RECORD").write_text("\r\n".join(rows) + "\r\n")
    return env


def test_nothing_of_the_build_is_left(env: Path) -> None:
    """No caches, notes, times or paths; RECORD lists what is there, sorted, with true hashes."""
    make_movable(env)

    files = sorted(path.relative_to(env).as_posix() for path in env.rglob("*") if not path.is_dir())
    assert files == ["bin/coded", "bin/coded-too", "bin/longer", "bin/python", "bin/thing",
                     f"{SITE}/thing-1.dist-info/RECORD", f"{SITE}/thing/__init__.py",
                     "pyvenv.cfg"]  # fmt: skip
    assert (env / "pyvenv.cfg").read_text() == "home = /usr/bin\n"
    lines = (env / SITE / "thing-1.dist-info/RECORD").read_text().splitlines()
    assert lines == sorted(lines)
    assert lines[0].startswith("../../../bin/thing,sha256=")
    assert lines[0].endswith(f",{(env / 'bin/thing').stat().st_size}")
    assert "old" not in lines[0]
    assert len(lines) == 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_finds_its_interpreter_anywhere(env: Path, tmp_path: Path, name: str) -> None:
    """After a move, also to a folder with a space, and called through a link."""
    make_movable(env)
    moved = env.rename(tmp_path / "an other place")
    (tmp_path / "link").symlink_to(moved / "bin" / name)

    for script in (moved / "bin" / name, tmp_path / "link"):
        said = subprocess.run([script, "a b"], capture_output=True, text=True, check=True)
        assert said.stdout == "a b\n"


def test_a_script_does_not_tell_how_it_was_begun(env: Path) -> None:
    """Where the folder of the build has a space in its path, installers begin scripts otherwise."""
    make_movable(env)

    assert (env / "bin/coded").read_bytes() == (env / "bin/coded-too").read_bytes()


def test_the_consumer_finds_nothing_to_fix(env: Path) -> None:
    """`cfy-agent configure`, with --fix-shebangs as with --relocated-env of before, rewrites the
    scripts whose first line begins with #! and has bin/python in it: to another line with the
    version of its own Python. Ours are left as they are."""
    make_movable(env)

    first = [path.read_bytes().splitlines()[0] for path in env.glob("bin/*[!n]")]
    assert first
    assert not [line for line in first if line.startswith(b"#!") and b"bin/python" in line]


@pytest.mark.parametrize(
    "place", [f"{SITE}/thing/compiled.so", f"{SITE}/editable.pth", "link", "bin/own"]
)
def test_what_keeps_the_path_of_the_build_is_no_agent(env: Path, place: str) -> None:
    """Compiled files, .pth files, links and scripts, each named."""
    if place == "link":
        (env / place).symlink_to(env.parent / "src")
    else:
        (env / place).write_bytes(b"x" * ((1 << 20) - 9) + str(env / "src").encode() + b"\0")

    with pytest.raises(PackagerError, match="could not be moved") as raised:
        make_movable(env)

    assert raised.value.code == Code.INSTALLATION_VALIDATION_FAILED
    assert raised.value.details == place


def test_the_same_tree_gives_the_same_bytes(env: Path, tmp_path: Path) -> None:
    """Whatever its files' times, their modes and the order of their creation are."""
    make_movable(env)
    write_tar_gz(tmp_path / "one.tar.gz", env, "cloudify/env", TIME)
    for path in env.rglob("*"):
        os.utime(path, (5, 5), follow_symlinks=False)
    (env / "pyvenv.cfg").chmod(0o600)
    copy = shutil.copytree(env, tmp_path / "copy", symlinks=True)
    write_tar_gz(tmp_path / "two.tar.gz", copy, "cloudify/env", TIME)

    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert all(member.name.startswith("cloudify/env/") for member in members)
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {
        (TIME, 0, 0, "")
    }
    assert {oct(member.mode) for member in members} == {"0o755", "0o644", "0o777"}
    (env / "pyvenv.cfg").write_text("home = /usr\n")
    write_tar_gz(tmp_path / "one.tar.gz", env, "cloudify/env", TIME)
    assert (tmp_path / "one.tar.gz").read_bytes() != (tmp_path / "two.tar.gz").read_bytes()


@pytest.mark.parametrize("size_bytes", [0, 1, BLOCK, BLOCK + 1, 12 * BLOCK + 5])
def test_how_many_processors_compress_is_not_in_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    """It is one member, as every gzip reads it, and smaller for what a block knows of the last."""
    content = random.Random(1).randbytes(BLOCK // 100).hex().encode() * 700
    made = []
    for processors in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda count=processors: count)
        with (tmp_path / f"{processors}.gz").open("wb") as file, GzipWriter(file, 4) as writer:
            for start in range(0, size_bytes, 70_000):
                writer.write(content[start : min(start + 70_000, size_bytes)])
        made.append((tmp_path / f"{processors}.gz").read_bytes())

    assert made[0] == made[1]
    assert gzip.decompress(made[0]) == content[:size_bytes]
    subprocess.run(["gzip", "--test", tmp_path / "1.gz"], check=True)
    assert len(made[0]) < len(zlib.compress(content[:size_bytes], 4)) * 1.01 + 20


def test_a_zip_has_the_same_promise(tmp_path: Path) -> None:
    """With execute bits, and no earlier time than a zip knows."""
    (tmp_path / "tree/b").mkdir(parents=True)
    (tmp_path / "tree/b/run").write_text("#!/bin/sh\n")
    (tmp_path / "tree/b/run").chmod(0o700)
    (tmp_path / "tree/a").touch()
    write_zip(tmp_path / "one.zip", tmp_path / "tree", "", 0)
    os.utime(tmp_path / "tree/a", (5, 5))
    write_zip(tmp_path / "two.zip", tmp_path / "tree", "", 0)

    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    infos = zipfile.ZipFile(tmp_path / "one.zip").infolist()
    assert [(info.filename, oct(info.external_attr >> 16)) for info in infos] == [
        ("a", "0o100644"), ("b/run", "0o100755"),
    ]  # fmt: skip


def test_an_archive_is_whole_or_not_there(env: Path, tmp_path: Path) -> None:
    """What cannot take its name at the end leaves no part behind."""
    (tmp_path / "agent.tar.gz").mkdir()

    with pytest.raises(PackagerError, match="could not be written") as raised:
        write_tar_gz(tmp_path / "agent.tar.gz", env, "cloudify/env", TIME)

    assert raised.value.code == Code.FAILED_TO_CREATE_TAR
    assert [path.name for path in tmp_path.glob("*agent*")] == ["agent.tar.gz"]
