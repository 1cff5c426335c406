"""The command line where something around the build is wrong: clear words, the right exit code."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from build_orchestrator.cache import write_whole
from build_orchestrator.doctor import examine
from tests.contract.projects import (
    CLI,
    OUTPUT,
    SCRIPT,
    TARGET,
    WAITS,
    Project,
    project,
    small,
    until_event,
)
from tests.standins.s3 import s3_server

__all__ = ["project", "small"]

real = pytest.mark.real
SECRET = "correct horse battery"
KEYS = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "shh-shh-shh"}


def files_with(folder: Path, needle: str) -> list[Path]:
    """Every file below a folder whose name or content holds the needle."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and (needle in str(path) or needle.encode() in path.read_bytes())
    ]


# --- wrong before anything starts ---------------------------------------------------------------


def test_a_disk_that_is_not_there_is_told_before_anything_starts(project: Project) -> None:
    """Exit 2 with its line; who only looks, or builds another target, does not need the disk."""
    path = project.folder / "targets.yaml"
    content = yaml.safe_load(path.read_text())
    image = {"path": "images/disk.qcow2", "sha256": "0" * 64}
    content["distros"]["debian_bookworm"]["providers"]["qemu"] = {"image": image}
    content["flavours"] = {"plain": {"script": "make.sh"}}
    content["recipes"]["agent"]["flavour"] = "plain"
    path.write_text(yaml.safe_dump(content))
    lines = path.read_text().splitlines()
    (number,) = (n for n, line in enumerate(lines, 1) if "path: images/disk.qcow2" in line)
    column = lines[number - 1].index("images/") + 1
    name = "debian_bookworm_qemu"
    where = f"targets.yaml:{number}:{column}: distros.debian_bookworm.providers.qemu.image.path"
    for command in ("up", "bake"):
        done = project.called(command, name)
        assert done.status == 2, done.words
        assert f"{where}: images/disk.qcow2 does not exist" in done.stderr
    assert not (project.folder / "runs").exists()
    for arguments in (["list", "--json"], ["plan", name], ["render", name], ["why", name]):
        looked = project.called(*arguments)
        assert looked.status == 0, looked.words
    assert project.up().status == 0


def test_zones_must_be_of_the_region_that_this_host_means(project: Project) -> None:
    """The file names zones alone, so only here it is known that they are of another region."""
    path = project.folder / "targets.yaml"
    content = yaml.safe_load(path.read_text())
    row = {"image": {"ami": "ami-12345678"}, "launch": {"zones": ["eu-west-1a", "eu-west-1b"]}}
    content["distros"]["debian_bookworm"]["providers"]["aws"] = row
    path.write_text(yaml.safe_dump(content))
    name = "debian_bookworm_aws"
    assert project.build("plan", name, AWS_REGION="eu-west-1").status == 0
    done = project.build("plan", name, AWS_REGION="eusc-de-east-1")
    assert "are not of region eusc-de-east-1" in done.stderr
    done = project.build("up", name, AWS_REGION="us-east-1")
    assert done.status == 2, done.words
    assert f"launch.zones of {name} are not of region us-east-1" in done.stderr
    assert project.runs == []


def test_a_sweep_that_is_told_where_in_aws_to_look_looks_there(project: Project) -> None:
    """Nobody shall read that nothing was left behind of a place that was not asked."""
    for option, value in (("--region", "eu-west-1"), ("--aws-endpoint", "http://127.0.0.1:1")):
        done = project.build("sweep", "--dry-run", option, value)
        assert done.status == 2, done.words
        assert "Give --provider aws, too." in done.stderr


def test_nothing_over_the_budget_is_started(project: Project) -> None:
    """Neither a build nor a bake: both launch machines that cost money. Who only looks may."""
    path = project.folder / "targets.yaml"
    content = yaml.safe_load(path.read_text())
    image, launch = {"ami": "ami-12345678"}, {"region": "eu-west-1"}
    content["distros"]["debian_bookworm"]["providers"]["aws"] = {"image": image, "launch": launch}
    content["budget"] = {"max_hourly_usd": 0.01}
    content["flavours"] = {"plain": {"script": "make.sh"}}
    content["recipes"]["agent"]["flavour"] = "plain"
    path.write_text(yaml.safe_dump(content))
    name = "debian_bookworm_aws"
    for command in ("up", "bake"):
        done = project.called(command, name)
        assert done.status == 2, done.words
        assert "over the budget; nothing was started" in done.stderr
    assert not (project.folder / "runs").exists()
    looked = project.called("up", name, "--dry-run", "--keep", "always", "--keep-for", "100h")
    assert looked.status == 0, looked.words
    (most,) = re.findall(r"(\S+) USD if every build", looked.stdout)
    assert float(most) > 4, "the time for which it may be kept is paid for"


def test_committed_files_that_are_not_what_would_be_written_are_told(project: Project) -> None:
    """Exit 2 names each of them, and what writes them again; nothing is changed by looking."""
    file = project.folder / "vagrant/Vagrantfile"
    stray = project.folder / "packer/debian_gone/packerfile.json"
    assert project.called("render", "--write").status == 0
    assert project.called("render", "--check").status == 0
    current = file.read_text()
    file.write_text(f"{current}# mine\n")
    stray.parent.mkdir(parents=True)
    stray.touch()
    done = project.called("render", "--check")
    assert done.status == 2
    assert f"{stray}, {file} are not what targets.yaml makes of it" in done.stderr
    assert "`build render --write`" in done.stderr
    assert file.read_text() != current
    assert project.called("render", "--write").status == 0
    assert (file.read_text(), stray.exists()) == (current, False)
    file.unlink()
    assert project.called("render", "--check").status == 2


def test_a_misspelt_key_is_found_at_once(project: Project) -> None:
    """Exit 2 with file, line, column and the nearest name, and nothing is started."""
    path = project.folder / "targets.yaml"
    path.write_text(path.read_text().replace("script:", "skript:"))
    used = os.times()
    done = project.up()
    spent = os.times()
    assert done.status == 2
    assert re.search(r"targets\.yaml:\d+:\d+: recipes\.agent\.skript: .*script", done.stderr)
    assert "Traceback" not in done.stderr
    cpu_s = spent.children_user + spent.children_system - used.children_user - used.children_system
    assert cpu_s < 1.0
    assert project.runs == []
    assert project.folders() == []


@real
@pytest.mark.parametrize(
    ("selector", "says"), [("debian_bookwrom_fake", TARGET), ("windows_*", "windows_*")]
)
def test_a_selector_that_selects_nothing(project: Project, selector: str, says: str) -> None:
    """An unknown target and an empty glob are exit 2, with the nearest name."""
    done = project.build("up", selector)
    assert done.status == 2
    assert says in done.stderr
    assert project.runs == []


@real
@pytest.mark.parametrize("variable", ["XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME"])
def test_a_home_that_cannot_be_written(project: Project, variable: str) -> None:
    """Exit 4 names the folder and what to set; nothing is started."""
    blocked = project.home / "a file"
    blocked.touch()  # Also root cannot make a folder below a file.
    environ = {variable: str(blocked)}
    if variable == "HOME":
        environ |= {"XDG_STATE_HOME": "", "XDG_CACHE_HOME": ""}
    done = project.up(**environ)
    assert done.status == 4, done.words
    assert str(blocked) in done.stderr
    assert "XDG_STATE_HOME" in done.stderr
    assert "Traceback" not in done.words
    assert project.runs == []


@real
def test_a_full_state_folder(project: Project, small: Path) -> None:
    """Too little room is exit 4 before anything starts, and says how much is needed."""
    done = project.up(XDG_STATE_HOME=str(small))
    assert done.status == 4, done.words
    assert "MiB free" in done.stderr
    assert "Make room" in done.stderr
    assert project.runs == []


@real
def test_a_disk_that_fills_during_a_run(project: Project, small: Path) -> None:
    """An artifact that does not fit is this host's fault: exit 3, and the machine is gone."""
    project.write(script=f'head -c 8000000 /dev/urandom >"$BUILD_OUTPUT/{OUTPUT}"', attempts=1)
    (project.folder / "runs").symlink_to(small)
    done = project.up()
    assert done.status == 3, done.words
    assert "No space left on device" in done.words
    assert "Traceback" not in done.words
    assert not project.alive()


# --- publishing ---------------------------------------------------------------------------------


@real
def test_other_bytes_under_a_published_name(project: Project) -> None:
    """The same version with other bytes is a conflict: exit 1, and the first bytes stay."""
    assert project.up(VERSION="1.0").status == 0
    (published,) = project.folder.glob(f"dist/1.0/*/{OUTPUT}")
    project.write(script=SCRIPT.replace("made", "changed"))
    done = project.build("--project", str(project.folder), "up", TARGET, VERSION="1.0")
    assert done.status == 1, done.words
    assert "conflict" in done.words
    assert published.read_text() == "made\n"
    project.assert_nothing_left()


@real
def test_an_unreachable_s3_is_published_to_later(project: Project) -> None:
    """Exit 3 and ``build publish RUN``: what was collected needs no second build."""
    project.write(recipe={"destinations": ["s3://bucket/agents"]})
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # Bound and not listening: refused.
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = project.up("--s3-endpoint", address, **KEYS, AWS_MAX_ATTEMPTS="1")
    assert done.status == 3, done.words
    row = project.row()
    assert (row["outcome"], row["published"][0]["state"]) == ("built", "no")
    assert f"build publish {project.run.name}" in done.stdout
    with s3_server() as address:
        publish = ("publish", project.run.name, "--s3-endpoint")
        missing = project.build(*publish, address, **KEYS)
        assert missing.status == 3, "there is no bucket yet"
        make_bucket(address)
        done = project.build(*publish, address, **KEYS)
        assert done.status == 0, done.words
        assert done.stdout.startswith("yes ")
        assert project.build(*publish, address, **KEYS).status == 0, "the same bytes again"
    project.assert_nothing_left()


def make_bucket(address: str) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="someone",
        aws_secret_access_key="shh-shh-shh",
    )
    client.create_bucket(Bucket="bucket")
    client.close()


@pytest.mark.parametrize(
    "words", [("publish",), ("status",), ("ssh", TARGET), ("images", "prune", "--dry-run")]
)
def test_whatever_asks_aws_takes_the_old_name_of_the_secret_key(
    project: Project, words: tuple[str, ...]
) -> None:
    """What `up` could do, these can do afterwards."""
    project.environ.pop("AWS_SECRET_ACCESS_KEY", None)
    done = project.called(*words, AWS_ACCESS_KEY_ID="someone", AWS_ACCESS_KEY="shh-shh-shh")
    assert "call it AWS_SECRET_ACCESS_KEY" in done.stderr
    assert "shh-shh-shh" not in done.words


# --- secrets ------------------------------------------------------------------------------------


def test_a_secret_is_nowhere(project: Project) -> None:
    """The script has it; no file of the run, no argument list and no line of output does."""
    script = (
        f"{SCRIPT}echo ${{#TOKEN}} letters\n"
        'echo "token: $TOKEN"\necho "::phase with $TOKEN"\n'
        'printf "%s\\n" "$TOKEN" >pattern\n'
        "cat /proc/[0-9]*/cmdline 2>/dev/null | grep -qFf pattern && echo seen || echo unseen\n"
        'echo "$TOKEN" | base64\nexit 7\n'
    )
    project.write(script=script, recipe={"secrets": ["TOKEN"]})
    done = project.up("-v", "--events", str(project.home / "events"), TOKEN=SECRET)
    assert done.status == 1, done.words
    assert f"{len(SECRET)} letters" in project.log()
    assert "token: ***" in project.log()
    assert "::phase with ***" in project.log()
    assert " | unseen\n" in project.log(), "no process has it among its arguments"
    assert SECRET not in done.words
    assert files_with(project.run, SECRET) == []
    assert files_with(project.run, "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5") == []
    assert files_with(project.home, SECRET) == []


@real
def test_a_missing_secret_stops_before_anything_starts(project: Project) -> None:
    """Its name is told, and nothing else."""
    project.write(recipe={"secrets": ["TOKEN"]})
    done = project.up()
    assert done.status == 4
    assert "TOKEN" in done.stderr
    assert project.runs == []


# --- looking at runs ----------------------------------------------------------------------------


@real
def test_a_run_can_be_looked_at_while_it_goes_on_and_after(project: Project) -> None:
    """``status`` and ``logs`` read what is on disk."""
    project.write(script=f"{SCRIPT}echo waiting\nread x <{project.home}/go\n")
    os.mkfifo(project.home / "go")
    with project.started("up", TARGET, "--events", "-") as child:
        until_event(child, "output_line", "waiting")
        going = project.build("status")
        assert "going on" in going.stdout
        assert TARGET in going.stdout
        assert " | waiting" in project.build("logs", TARGET).stdout
        (project.home / "go").write_text("go\n")
        assert child.wait(20) == 0
    status = project.build("status")
    assert f"{TARGET}: built, machine destroyed" in status.stdout
    assert "no machine is alive" in status.stdout
    assert project.build("logs", "debian_bookwrom_fake").status == 2


@real
def test_a_run_without_its_plan_has_a_log_still(project: Project) -> None:
    """A kill or a full disk may have left it torn."""
    assert project.up().status == 0
    plan = project.run / "plan.json"
    whole = plan.read_text()
    for text in ("", whole[:100], whole):
        plan.write_text(text)
        for options in ((), ("-f",)):
            done = project.build("logs", TARGET, *options)
            assert (done.status, "| hello" in done.stdout) == (0, True), done.words


def test_a_file_where_the_runs_should_be(project: Project) -> None:
    """Exit 4, with what to do, before anything starts."""
    (project.folder / "runs").touch()
    done = project.called("up", TARGET)
    assert done.status == 4, done.words
    assert "runs is a folder that you may write" in done.stderr


def test_a_destination_that_leads_nowhere(project: Project) -> None:
    """A dangling link cannot be published to: exit 4 before anything starts."""
    (project.folder / "dist").symlink_to("/nonexistent/dist")
    done = project.called("up", TARGET)
    assert done.status == 4, done.words
    assert "dist is no folder" in done.stderr


@real
def test_what_a_script_names_after_a_secret_is_hidden(project: Project) -> None:
    """The names of files come back in errors, and those stand in every report."""
    project.write(
        script='echo x >"$BUILD_OUTPUT/$TOKEN.txt"; touch "$BUILD_OUTPUT/agent.txt"',
        recipe={"secrets": ["TOKEN"]},
    )
    done = project.up(TOKEN="sup3rs3cret")
    assert done.status == 1, done.words
    assert "***.txt" in done.words
    assert "sup3rs3cret" not in done.words
    written = [each.read_text() for each in project.run.rglob("*") if each.is_file()]
    assert not [text for text in written if "sup3rs3cret" in text]


@pytest.mark.alone
def test_what_is_dead_is_not_waited_for(project: Project) -> None:
    """The log of a killed run ends, and a machine that died is offered to nobody."""
    project.write(script=WAITS)
    with project.started("up", TARGET, "--events", "-") as child:
        until_event(child, "output_line", "waiting")
        child.kill()
        child.wait()
    assert "waiting" in project.build("logs", TARGET, "-f").stdout
    while alive := project.alive():
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert f"no machine of '{TARGET}' is alive" in project.build("ssh", TARGET).stderr
    assert project.build("sweep").status == 0


@real
def test_the_terminal_may_go_away(project: Project) -> None:
    """Whoever reads our output may have enough; the build goes on and is on disk."""
    with project.started("up", TARGET) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stderr.close()
        end = time.monotonic() + 20
        while child.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        child.stdout = child.stderr = None
    assert project.row()["outcome"] == "built"
    project.assert_nothing_left()


@real
@pytest.mark.parametrize(("command", "expected"), [("status", 0), ("sweep", 0), ("list", 2)])
def test_a_current_folder_that_is_gone(project: Project, command: str, expected: int) -> None:
    """Machines are looked for without a project; what needs one is exit 2."""
    gone = project.home / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["bash", "-c", f'cd "$0"; rmdir "$0"; exec {shlex.join(CLI)} {command}', str(gone)],
        env=project.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    assert ("does not exist any more" in done.stderr) == (expected == 2)


@real
@pytest.mark.parametrize("content", ["", "[]", '{"results": [1]}', '{"results": null}', "{"])
def test_a_broken_report_is_no_report(project: Project, content: str) -> None:
    """``status`` tells of the run, ``publish`` refuses it; neither is a bug of ours."""
    folder = project.folder / "runs" / "20261121T000000Z-0000"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(content)
    assert project.build("status").status == 0
    done = project.build("publish")
    assert (done.status, "report.json" in done.stderr) == (2, True), done.stderr


def test_a_report_is_whole_or_absent(project: Project) -> None:
    """What cannot be written to its end is not there, and nothing is left aside."""
    with pytest.raises(ValueError, match="surrogates"):
        write_whole(project.folder / "report.json", "x" * 100_000 + "\udc80")
    assert not (project.folder / "report.json").exists()
    assert project.up().status == 0
    names = {path.name for path in (*project.run.iterdir(), *project.folder.iterdir())}
    assert {"report.json", "junit.xml", "report.html"} <= names
    assert [name for name in names if name.startswith(".")] == []


@real
def test_a_kept_machine_that_died(project: Project) -> None:
    """``status`` does not call it alive."""
    assert project.up("--keep", "always").status == 0
    assert "machines alive:" in project.build("status").stdout
    for pid in project.alive():
        os.kill(pid, 9)
    end = time.monotonic() + 5
    while project.alive() and time.monotonic() < end:
        time.sleep(0.005)
    status = project.build("status").stdout
    assert "no machine is alive" in status
    assert "not running" in status
    (machine,) = json.loads(project.build("status", "--json").stdout)["machines"]
    assert machine["alive"] is False
    assert project.build("sweep", TARGET).status == 0
    project.assert_nothing_left()


def test_a_secret_too_short_to_mask(project: Project) -> None:
    """Exit 2 before anything starts; its value is not told."""
    project.write(recipe={"secrets": ["TOKEN"]})
    done = project.called("up", TARGET, TOKEN="q7x")
    assert done.status == 2, done.words
    assert "q7x" not in done.words
    assert project.runs == []


@pytest.mark.parametrize("option", ["--junit", "--events"])
@pytest.mark.parametrize("place", ["/nonexistent/x", "/"])
def test_a_file_that_cannot_be_written(project: Project, option: str, place: str) -> None:
    """Exit 2 before anything starts."""
    done = project.called("up", TARGET, option, place)
    assert done.status == 2, done.words
    assert option in done.stderr
    assert project.runs == []


@real
def test_a_report_may_go_where_the_runs_will_be(project: Project) -> None:
    """Their folder need not be there yet."""
    assert project.up("--junit", "runs/x.xml").status == 0
    assert (project.folder / "runs" / "x.xml").is_file()


NOBODY = """
import os, pwd, sys
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
os.geteuid = lambda: 54321
from build_orchestrator.cli import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["status", f"up {TARGET}", "sweep"])
def test_a_user_without_a_home(project: Project, command: str) -> None:
    """A number without an account, as in a container: clear words and exit 4."""
    done = as_nobody(project, NOBODY, *command.split())
    assert done.returncode == 4, done.stderr
    assert "no home folder" in done.stderr
    assert "XDG_STATE_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_without_a_home(project: Project) -> None:
    """The trace is told where it cannot be kept."""
    bug = "import build_orchestrator.cli.project as p; p.find_project = None\n"
    done = as_nobody(project, bug + NOBODY, "list")
    assert done.returncode == 70, done.stderr
    assert "the lines above" in done.stderr
    assert "During handling" not in done.stderr


def as_nobody(project: Project, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with no variable that says where home is."""
    homes = {"HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"}
    return subprocess.run(
        [CLI[0], "-c", program, *arguments],
        cwd=project.folder,
        env={name: value for name, value in project.environ.items() if name not in homes},
        capture_output=True,
        text=True,
        check=False,
    )


def test_doctor_looks_at_a_user_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is missing instead of dying of it."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    checks = itertools.takewhile(lambda check: check.name != "accelerator", examine(probe=False))
    found = {check.name: check for check in checks}
    assert "54321" in found["/etc/subuid"].finding
    assert not found["state folder"].ok
    assert "no home folder" in found["cache folder"].finding


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SOURCE_DATE_EPOCH", "\u00b2", "expected seconds since 1970"),
        ("SOURCE_DATE_EPOCH", "9" * 23, "expected seconds since 1970"),
        ("VERSION", "1" * 300, "cannot be part of a file's name"),
    ],
)
def test_a_variable_that_makes_no_sense(project: Project, name: str, value: str, says: str) -> None:
    """Said before anything starts, and never as a bug of ours."""
    done = project.called("plan", TARGET, **{name: value})
    assert done.status == 2
    assert says in done.stderr


def test_a_project_whose_name_is_not_text(project: Project) -> None:
    """A plan is text, so the folder must be renamed."""
    odd = os.fsdecode(os.fsencode(project.home) + b"/\xff")
    project.folder.rename(odd)
    done = project.build("plan", TARGET, "--json", cwd=odd)
    assert done.status == 2
    assert "not UTF-8" in done.stderr
    Path(odd).rename(project.folder)


def test_another_folder_can_be_named_from_one_that_is_gone(
    project: Project, tmp_path: Path
) -> None:
    """As the error for a deleted folder advises."""
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"cd {gone} && rmdir {gone} && exec {shlex.join(CLI)} --project {project.folder} list"
    done = subprocess.run(
        ["bash", "-c", line], env=project.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert TARGET in done.stdout


def test_doctor_survives_what_it_looks_for(project: Project, tmp_path: Path) -> None:
    """A file in the place of the cache: it says so, and goes on to the providers."""
    (tmp_path / "file").touch()
    done = project.build("doctor", "--no-probe", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert done.status == 4, done.words
    assert "qemu" in done.stdout
    assert "this host failed us" not in done.words
