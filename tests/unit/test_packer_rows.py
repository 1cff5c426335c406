"""What Packer prints for programs: escapes are undone, artifacts are found, nothing is guessed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from build_orchestrator.errors import DiskFull, EnvironmentFailure, ScriptFailed
from build_orchestrator.image.bake import failure
from build_orchestrator.image.packer import Ended, artifact_ids, environment, errors, row
from build_orchestrator.machine.shortage import QUESTIONS
from build_orchestrator.render.packerfile import INSIDE

ROOT = Path(__file__).parents[2]

SAID = [
    "1790000000,,ui,say,==> qemu-plain: Retrieving Disk",
    "1790000001,,ui,message,    qemu-plain: a%!(PACKER_COMMA) b\\nc",
    "1790000002,,ui,error,==> qemu-plain: Failed to connect to bus",
    "1790000003,qemu-plain,artifact-count,1",
    "1790000004,qemu-plain,artifact,0,builder-id,transcend.qemu",
    "1790000005,qemu-plain,artifact,0,id,VM",
    "1790000006,qemu-plain,artifact,0,files-count,1",
    "1790000007,qemu-plain,artifact,0,end",
]
ROWS = [row(line) for line in SAID]
WELL = ["1,,ui,message,    x: ::left free_kib 4096 /", "1,,ui,message,    x: ::left oom_kills 0"]
FULL = [*WELL, "1,,ui,message,    x: ::left free_kib 4095 /"]
KILLED = [*WELL, "1,,ui,message,    x: ::left oom_kills 1"]


def test_escapes_are_undone() -> None:
    assert ROWS[1].text == "    qemu-plain: a, b\nc"


def test_what_is_no_row_is_something_said() -> None:
    assert row("panic: out of cheese, again").text == "panic: out of cheese, again"
    assert row("").text == ""
    assert row("1790000000,short").kind == "ui"


def test_an_artifact_is_its_builders_alone() -> None:
    assert artifact_ids(ROWS, "qemu-plain") == ("VM",)
    assert artifact_ids(ROWS, "qemu-docker") == ()
    assert artifact_ids(ROWS[:5], "qemu-plain") == ()


def test_an_artifact_may_have_an_empty_id() -> None:
    rows = [row("1,libvirt-plain,artifact,0,id,"), row("1,aws-plain,artifact,0,id,eu-west-1:ami-1")]
    assert artifact_ids(rows, "libvirt-plain") == ("",)
    assert artifact_ids(rows, "aws-plain") == ("eu-west-1:ami-1",)


def test_what_packer_says_is_no_error_before_it_counts_as_one() -> None:
    assert errors(ROWS) == ""
    assert errors([row("1,qemu-plain,error,broken%!(PACKER_COMMA) badly")]) == "broken, badly"


@pytest.mark.parametrize(
    ("status", "lines", "kind", "words"),
    [
        (0, ["1,,ui,say,done"], EnvironmentFailure, "made no image"),
        (1, ["1,,ui,message,    x: ::exit 3"], ScriptFailed, "status 3"),
        (1, ["1,,ui,message,    x: ::exit 75"], EnvironmentFailure, "(75)"),
        (1, ["1,,ui,message,    x: ::exit 0"], EnvironmentFailure, "status 1"),
        (137, [], EnvironmentFailure, "killed by SIGKILL"),
        (124, [], EnvironmentFailure, "within its limit"),
        (1, ["1,x,error,no route"], EnvironmentFailure, "no route"),
        (1, [*FULL, "1,,ui,message,    x: ::exit 3"], EnvironmentFailure, "/ in the machine is"),
        (1, [*FULL, "1,,ui,message,    x: ::exit 3"], EnvironmentFailure, "size.disk_mib"),
        (1, [*FULL, "1,,ui,message,    x: ::exit 0"], EnvironmentFailure, "/ in the machine is"),
        (1, [*KILLED, "1,,ui,message,    x: ::exit 3"], EnvironmentFailure, "want of memory"),
        (1, [*WELL, "1,,ui,message,    x: ::exit 3"], ScriptFailed, "status 3"),
        (1, [*FULL, "1,,ui,message,    x: ::exit 75"], EnvironmentFailure, "(75)"),
    ],
)
def test_each_end_has_its_class(
    status: int, lines: list[str], kind: type[Exception], words: str, tmp_path: Path
) -> None:
    ended = Ended(status=status, rows=tuple(map(row, lines)), last_words="")
    error = failure(ended, tmp_path)
    assert type(error) is kind
    assert words in str(error)


def test_inside_a_machine_is_said_what_builds_ask(tmp_path: Path) -> None:
    """The same measures in the same words, whatever became of the script."""
    asked = subprocess.run(["sh", "-s"], input=QUESTIONS, capture_output=True, check=True).stdout
    wanted = {line.split()[0] for line in asked.decode().splitlines()}
    assert {"free_kib", "free_inodes"} <= wanted
    for status in (0, 3):
        (tmp_path / "install.sh").write_text(f"exit {status}\n")
        done = subprocess.run(
            ["sh", ROOT / INSIDE, "install", tmp_path / "install.sh"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stderr
        *left, end = done.stdout.splitlines()
        assert end == f"::exit {status}"
        assert {line.split()[1] for line in left} == wanted
        assert all(line.startswith("::left ") for line in left)


def test_a_full_disk_explains_any_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("build_orchestrator.cache.disk_is_full", lambda _: True)
    ended = Ended(status=1, rows=(row("1,,ui,message,x: ::exit 1"),), last_words="")
    error = failure(ended, tmp_path)
    assert type(error) is DiskFull
    assert "disk is full" in error.brief
    assert "build images prune" in error.resolution


def test_packer_hears_nothing_that_leads_it_astray(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PACKER_LOG", "PKR_VAR_name", "PACKER_CONFIG_DIR", "PACKER_PLUGIN_PATH"):
        monkeypatch.setenv(name, "/theirs")
    told = environment({"TMPDIR": "/ours"})
    assert {name for name, value in told.items() if value == "/theirs"} == {
        "PACKER_CONFIG_DIR",
        "PACKER_PLUGIN_PATH",
    }
    assert (told["TMPDIR"], told["CHECKPOINT_DISABLE"]) == ("/ours", "1")
