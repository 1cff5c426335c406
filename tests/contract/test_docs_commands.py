"""Every command in the README and the docs is run, as far as it can be in seconds.

A block of ``sh`` is run line by line in a scratch project with the targets of this one, and a home
of its own. An HTML comment above it says what it needs that is not there:

- ``needs: machine``: the same line is planned as it stands, then run with ``fake`` for ``qemu``;
  ``build bake`` is run with ``--dry-run``.
- ``needs: ssh``, ``needs: network``: its command, options and arguments are parsed.
- ``needs: s3``: ``build up`` is planned with ``--dry-run``.
- ``needs: aws``: the same, in some region; what only looks at the project is run as it stands.
- ``needs: vagrant``: folder, verb and targets are looked for; tests/real/test_boxes.py runs them.
- ``needs: checkout``: ``make VERB`` is planned with ``make --dry-run`` in this checkout.
- ``needs: jenkins``: its ``sh`` steps are taken, each as one of the above.
- ``in: tutorial``: the project is made of the page's own ``file: NAME`` blocks.
- ``edit: TEXT``: TEXT is added to the tutorial's script first.

A comment ``# exit N`` at the end of a line says how it ends, if not with 0.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from build_orchestrator.cli import cli, run
from build_orchestrator.configuration import load
from build_orchestrator.machine import PROVIDERS
from tests.conftest import require

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<marks>[a-z]+: [^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
RUN = {"sh", "groovy"}
NOT_RUN = {"", "json", "text", "yaml"}
NEEDS = {"", "aws", "checkout", "jenkins", "machine", "network", "s3", "ssh", "vagrant"}
PARSED = {"network", "ssh"}
EXIT = re.compile(r"# exit (\d+)$")
COMMAND_LINE = re.compile(r"^(build|make) ", re.MULTILINE)

STANDIN_SCRIPT = """\
#!/bin/sh
# Makes what provision.sh makes, in no time.
set -eu
name=Debian-${BUILD_DISTRO#debian_}-agent${VERSION:+_$VERSION}
name=$name${PRERELEASE:+-$PRERELEASE}${BUILD:+-b$BUILD}
mkdir -p made/cloudify/env
echo agent >made/cloudify/env/agent
tar -czf "$BUILD_OUTPUT/$name.tar.gz" -C made cloudify
echo locked >"$BUILD_OUTPUT/$name.requirements.lock"
"""
OUTPUT = '>"$BUILD_OUTPUT/$BUILD_DISTRO-{}"\n'
PACK_APP = "mkdir app && touch app/index.js && tar -cz app "
STANDIN_SCRIPTS = {
    "provision/provision.sh": STANDIN_SCRIPT,
    "provision/plugin-wagon.sh": "#!/bin/sh\necho wagon " + OUTPUT.format("plugin.wgn"),
    "provision/docker-image.sh": "#!/bin/sh\necho image " + OUTPUT.format("docker-image.tar"),
    "provision/nodejs.sh": f"#!/bin/sh\n{PACK_APP}" + OUTPUT.format("nodejs.tar.gz"),
}


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    page: Path
    number: int
    language: str
    text: str
    marks: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs(self) -> str:
        return self.marks.get("needs", "")

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}-{self.number}"


def blocks() -> list[Block]:
    """Every block of code in every page, in order."""
    return [
        Block(page, number, found["language"], found["text"], marks_of(found["marks"] or ""))
        for page in PAGES
        for number, found in enumerate(BLOCK.finditer(page.read_text("utf-8")), 1)
    ]


def marks_of(text: str) -> dict[str, str]:
    return dict(pair.split(": ", 1) for pair in text.split(", ")) if text else {}


ALL = blocks()
FILES = [block for block in ALL if "file" in block.marks]
RUNNABLE = [block for block in ALL if block.language in RUN and block not in FILES]
MATRICES = [block for block in ALL if block.language == "yaml" and block not in FILES]


def lines_of(block: Block) -> Iterator[str]:
    """The command lines of a block: those of a Jenkinsfile are its sh steps."""
    if block.language == "groovy":
        yield from re.findall(r"\bsh '([^']*)'", block.text)
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


# --- a project to run them in ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with this one's targets, each on fake as well, and one run behind it."""
    project = tmp_path_factory.mktemp("project")
    (project / "targets.yaml").write_text(yaml.safe_dump(with_fake(matrix())))
    make_inputs(project, matrix())
    (project / "packager.yaml").write_text("core_modules: {cloudify_common: cloudify-common}\n")
    for name, text in STANDIN_SCRIPTS.items():
        (project / name).write_text(text)
        (project / name).chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        assert run(["up", "debian_bookworm_fake", "-qq"]) == 0
    return project


def matrix() -> dict[str, Any]:
    text = (ROOT / "targets.yaml").read_text("utf-8")
    found: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)  # The other takes 50 ms.
    return found


def make_inputs(project: Path, matrix: dict[str, Any]) -> None:
    """Whatever a recipe names, empty."""
    for recipe in matrix["recipes"].values():
        keys = ("script", "windows_script", "requirements_lock")
        names = [recipe[key] for key in keys if key in recipe]
        for name in [*recipe["inputs"], *names]:
            if name.endswith("/"):
                (project / name).mkdir(parents=True, exist_ok=True)
            else:
                _touch(project / name)
    for flavour in matrix["flavours"].values():
        _touch(project / flavour["script"])


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def with_fake(matrix: dict[str, Any]) -> dict[str, Any]:
    """On fake as on qemu: with this host's processor."""
    for distro in matrix["distros"].values():
        if "arch" not in distro:
            distro["providers"]["fake"] = None
    return {**matrix, "default_provider": "fake"}


@pytest.fixture
def project(
    request: pytest.FixtureRequest, tmp_path: Path, isolated_home: Path, seed: Path
) -> Path:
    """The project of one block, in which it may do what it likes."""
    block: Block = request.getfixturevalue("block")
    place = tmp_path / "project"
    if block.marks.get("in") != "tutorial":
        shutil.copytree(seed, place, symlinks=True)
        return place
    place.mkdir()
    for file in FILES:
        (place / file.marks["file"]).write_text(file.text)
    with (place / "hello.sh").open("a") as script:
        script.write(block.marks.get("edit", "") + "\n")
    assert isolated_home.is_dir()
    return place


# --- how a line is checked ------------------------------------------------------------------------


def check(line: str, needs: str, patch: pytest.MonkeyPatch) -> None:
    """Run one line, or what comes nearest to it, and see it end as the page says."""
    expected = int(found[1]) if (found := EXIT.search(line)) else 0
    words = shlex.split(line, comments=True)
    settings = [word for word in words if re.match(r"[A-Z_]+=", word)]
    words = [word for word in words if word not in settings]
    program = words[0].removeprefix(".venv/bin/")
    if program == "build":
        with patch.context() as inner:
            inner.setenv("AWS_REGION", "eu-west-1")
            for setting in settings:
                inner.setenv(*setting.split("=", 1))
            check_build(words[1:], needs, expected)
    elif program == "make":
        plan_make(words[1:])
    elif needs == "vagrant":
        check_vagrant(words)
    elif words == [".", ".venv/bin/activate"]:
        assert "\nVENV := .venv\n" in (ROOT / "Makefile").read_text("utf-8")
    else:
        require(program)
        done = subprocess.run(["sh", "-euc", line], check=False, capture_output=True, text=True)
        assert done.returncode == expected, done.stderr


def check_build(arguments: list[str], needs: str, expected: int) -> None:
    name = arguments[0]
    asks_aws = needs == "aws" and name in ("doctor", "lock", "sweep")
    if needs in PARSED or asks_aws or (needs == "s3" and name != "up"):
        context = cli.make_context("build", ["--help"], resilient_parsing=True)
        group: click.Command = cli
        while isinstance(group, click.Group):
            name, *arguments = arguments
            command = group.get_command(context, name)
            assert command is not None, f"there is no command {name}"
            context = command.make_context(name, list(arguments), parent=context)
            group = command
        return
    if name == "bake":
        assert run([*arguments, "--dry-run"]) == expected
        return
    if name == "up" and needs:
        assert run([*arguments, "--dry-run"]) == 0
    if needs == "aws" and name != "up":
        assert run(arguments) == expected
    elif needs not in ("s3", "aws"):
        assert run(on_fake(arguments)) == expected


def check_vagrant(words: list[str]) -> None:
    """A folder of this checkout, or one of the few verbs that a page needs, with its targets."""
    if words[0] == "cd":
        assert (ROOT / words[1]).is_dir()
        return
    program, verb, *arguments = words
    names = [word for word in arguments if not word.startswith("-")]
    assert program == "vagrant"
    if verb == "box":
        assert names[0] == "add"
        names = [Path(name).stem for name in names[1:]]
    else:
        assert verb in ("destroy", "status", "up")
    vagrantfile = (ROOT / "vagrant/Vagrantfile").read_text("utf-8")
    assert [name for name in names if f"config.vm.define '{name}'" not in vagrantfile] == []


def on_fake(arguments: list[str]) -> list[str]:
    """The same command for the same distros, where nothing real is needed."""
    changed = [re.sub(r"_qemu$", "_fake", word) for word in arguments]
    # By name even a kept machine is swept, and somebody else's may have this one's target.
    named = changed[0] == "sweep" and any(not word.startswith("-") for word in changed[1:])
    return [*changed, "--dry-run"] if named else changed


def plan_make(arguments: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "--dry-run", *arguments],
        cwd=ROOT, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- the tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", RUNNABLE, ids=str)
def test_the_commands_of_a_block_work(
    block: Block, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line does what the page shows."""
    monkeypatch.chdir(project)
    for name in ("VERSION", "PRERELEASE", "BUILD"):
        monkeypatch.delenv(name, raising=False)
    needs = "machine" if block.needs == "jenkins" else block.needs
    for line in lines_of(block):
        check(line, needs, monkeypatch)


@pytest.mark.parametrize("block", MATRICES, ids=str)
def test_a_piece_of_targets_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    """Put into a whole file, each piece that a page shows is read without a problem."""
    piece = yaml.safe_load(block.text.replace("<64 hex digits>", f'"{"0" * 64}"'))
    whole = matrix()
    for name, rows in piece.items():
        for row, entries in rows.items():
            before = whole.setdefault(name, {}).get(row, {})
            whole[name][row] = {**before, **entries} if isinstance(entries, dict) else entries
    (tmp_path / "targets.yaml").write_text(yaml.dump(whole, Dumper=yaml.CSafeDumper))
    make_inputs(tmp_path, whole)

    assert load(tmp_path, providers=frozenset(PROVIDERS)).targets


def test_no_block_goes_unchecked() -> None:
    """Blocks are in languages that are run, or in such that hold no commands."""
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    strange = [str(block) for block in ALL if block.language not in RUN | NOT_RUN]
    hidden = [
        str(block)
        for block in ALL
        if block.language in ("", "text") and COMMAND_LINE.search(block.text)
    ]

    assert len(ALL) == len(re.findall(r"^```\w+$|^```$", pages, re.MULTILINE)) / 2
    assert (strange, hidden) == ([], [])
    assert [str(block) for block in RUNNABLE if block.needs not in NEEDS] == []
    assert [str(block) for block in RUNNABLE if not list(lines_of(block))] == []


@pytest.mark.parametrize(
    ("line", "needs"),
    [
        ("build upp debian_bookworm_qemu", ""),
        ("build up debian_bookwurm_qemu", "machine"),
        ("build up debian_bookworm_qemu --keep-fro 30m", "machine"),
        ("build up debian_bookworm_qemu  # exit 1", "machine"),
        ("build up debian_bookworm_qemu --publish-to s4://x", "s3"),
        ("build ssh", "ssh"),
        ("build doctor --jsno", "network"),
        ("build wagon create . --pyvre 3", "network"),
        ("build wagon craete .", "network"),
        ("make agnet", "checkout"),
        ("vagrant up debian_bookwurm_libvirt", "vagrant"),
        ("cat dist/latest/nothing", ""),
    ],
)
def test_a_wrong_line_is_seen(
    line: str, needs: str, seed: Path, isolated_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in a command, a name or an option does not pass."""
    assert isolated_home.is_dir()
    monkeypatch.chdir(seed)
    with pytest.raises(Exception):  # noqa: B017, PT011 - click's own, or an assertion
        check(line, needs, monkeypatch)
