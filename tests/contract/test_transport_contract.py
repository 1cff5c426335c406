"""What every way of talking to a machine promises, and what only ssh can."""

from __future__ import annotations

import io
import os
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from build_orchestrator.deadline import NEVER, Cancel, Deadline
from build_orchestrator.errors import (
    DeadlineExceeded,
    EnvironmentFailure,
    Interrupted,
    MachineLost,
    VerificationFailed,
)
from build_orchestrator.transport.local import LocalShell
from build_orchestrator.transport.shell import Shell
from build_orchestrator.transport.ssh import Ssh
from tests.conftest import require
from tests.standins.sshd import Sshd, free_port, new_key

pytestmark = pytest.mark.real  # an sshd answers

DEEP = 'it\'s a "deep" 100%h folder/' + "/".join(f"{'#' * 30} {n}" for n in range(5))
"""Longer than a socket's path may be, with all that ssh's configuration gives a meaning."""


@dataclass(frozen=True)
class Bench:
    """A shell, and where its machine's folders are on this host."""

    shell: Shell
    machine: PurePosixPath
    """A folder as the machine knows it."""
    here: Path
    """The same folder on this host."""
    shims: Path
    """Programs here come first in the machine."""

    def run(self, script: str | bytes) -> tuple[int, list[str]]:
        """Run a script; return its status and its lines."""
        lines: list[str] = []
        raw = script.encode() if isinstance(script, str) else script
        status = self.shell.run(raw, deadline=soon(), on_line=lines.append)
        return status, lines

    def shim(self, name: str, text: str) -> None:
        """Put a program into the machine that is found before the real one."""
        path = self.shims / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


def soon(limit_s: float = 20.0) -> Deadline:
    return Deadline("transfer", limit_s, "the test to end")


def yes() -> bool:
    return True


def processes(needle: str | Path) -> list[int]:
    """Living processes whose arguments or current folder hold the needle, ourselves excluded."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            folder = os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue
        if arguments and os.fsencode(needle) in arguments + b"\0" + folder:
            found.append(int(entry.name))
    return found


def until(condition: Callable[[], object], limit_s: float = 5.0) -> None:
    """Wait for something that happens in another process."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    require("ssh", "sshd", "ssh-keygen")
    with Sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def ssh_to(server: Sshd, folder: Path) -> Ssh:
    folder.mkdir(parents=True)
    ssh = Ssh(
        folder,
        host=server.host,
        port=server.port,
        user=server.user,
        identity_file=server.identity_file,
    )
    ssh.write_configuration()
    ssh.pin(server.public_host_key)
    return ssh


@pytest.fixture(scope="module")
def shared(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    """A connection for all tests that leave it alone, from a folder with a hard path."""
    ssh = ssh_to(sshd, tmp_path_factory.mktemp("shared") / DEEP)
    ssh.wait(soon(), NEVER, yes)
    yield ssh
    ssh.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    """An sshd to break."""
    require("ssh", "sshd", "ssh-keygen")
    with Sshd(tmp_path / "sshd") as started:
        yield started


@pytest.fixture
def own(server: Sshd, tmp_path: Path) -> Iterator[Ssh]:
    """A connection to break."""
    ssh = ssh_to(server, tmp_path / "own")
    ssh.wait(soon(), NEVER, yes)
    yield ssh
    ssh.close()


@pytest.fixture(params=["local", "ssh"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    here = tmp_path / "in the machine"
    here.mkdir()
    if request.param == "ssh":
        shims = request.getfixturevalue("sshd").shims
        ssh = request.getfixturevalue("shared")
        yield Bench(shell=ssh, machine=PurePosixPath(here), here=here, shims=shims)
        for shim in shims.iterdir():
            shim.unlink()
    else:
        shims = tmp_path / "shims"
        shims.mkdir()
        shell = LocalShell(tmp_path, {"PATH": f"{shims}:{os.environ['PATH']}"})
        yield Bench(shell=shell, machine=PurePosixPath("/", here.name), here=here, shims=shims)


# --- running ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 7, 75, 255])
def test_the_status_is_the_scripts_own(bench: Bench, status: int) -> None:
    """Whatever a script exits with is returned, 255 included, which ssh also uses for itself."""
    assert bench.run(f"echo before\nexit {status}\necho after\n") == (status, ["before"])


def test_the_status_is_that_of_the_last_command(bench: Bench) -> None:
    """A script that just ends has the status of its last command."""
    assert bench.run("true; false") == (1, [])


def test_a_script_that_a_signal_ends_has_128_and_its_number(bench: Bench) -> None:
    """A killed script is told from one that exits."""
    status, _ = bench.run("kill -9 $$")
    assert status == 128 + signal.SIGKILL


def test_an_empty_script_succeeds(bench: Bench) -> None:
    """Nothing to do is no error."""
    assert bench.run("") == (0, [])
    assert bench.run("# only a comment") == (0, [])


def test_both_outputs_arrive_in_order(bench: Bench) -> None:
    """Lines of the two outputs stand as they were written."""
    status, lines = bench.run("for n in 1 2 3 4 5; do echo out $n; echo err $n >&2; done")
    assert status == 0
    assert lines == [f"{stream} {n}" for n in range(1, 6) for stream in ("out", "err")]


def test_bytes_that_are_not_utf8_are_replaced(bench: Bench) -> None:
    """Output in any encoding arrives, and so does a script in any encoding."""
    assert bench.run(b"printf 'a\\377b\\n'; printf '\xe9t\xe9\\n'")[1] == ["a�b", "�t�"]


def test_a_line_of_10_mb_arrives_whole(bench: Bench) -> None:
    """There is no longest line."""
    status, lines = bench.run("head -c 10000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert (status, [len(line) for line in lines]) == (0, [10_000_000, 3])


def test_a_last_line_without_newline_arrives(bench: Bench) -> None:
    """The end of the output ends its last line."""
    assert bench.run("printf 'one\\ntwo'")[1] == ["one", "two"]


def test_commands_find_an_empty_standard_input(bench: Bench) -> None:
    """A command that reads its input does not eat the rest of the script."""
    assert bench.run("cat; read -r line || echo nothing\necho end") == (0, ["nothing", "end"])
    assert bench.run("[ /dev/stdin -ef /dev/null ]") == (0, [])


def test_a_syntax_error_runs_nothing(bench: Bench) -> None:
    """A script that cannot be read to its end says so, with the right line, and does nothing."""
    status, lines = bench.run(f"touch '{bench.here}/done'\necho hello\nif; then\n")
    assert status == 2
    assert any("yntax error" in line and "3" in line for line in lines)
    assert "hello" not in lines
    assert not (bench.here / "done").exists()


def test_a_script_may_end_in_the_middle_of_a_line(bench: Bench) -> None:
    """A trailing backslash or comment does not swallow what we put around the script."""
    assert bench.run("echo a \\") == (0, ["a"])
    assert bench.run("echo b; exit 3 # why") == (3, ["b"])


def test_lines_arrive_while_the_script_runs(bench: Bench) -> None:
    """The script goes on only after its first line was seen here."""
    flag = bench.here / "flag"

    def answer(line: str) -> None:
        if line == "go":
            flag.touch()

    script = f"echo go; until [ -e '{flag}' ]; do sleep 0.01; done"
    assert bench.shell.run(script.encode(), deadline=soon(5), on_line=answer) == 0


def test_no_argument_list_shows_the_script(bench: Bench) -> None:
    """Secrets travel inside scripts, and anybody may list processes."""
    flag = bench.here / "flag"
    seen: list[list[int]] = []

    def look(_: str) -> None:
        seen.append(processes("s3cr" + "et-value"))
        flag.touch()

    script = f"x='s3cret-value'; echo go; until [ -e '{flag}' ]; do sleep 0.01; done"
    assert bench.shell.run(script.encode(), deadline=soon(5), on_line=look) == 0
    assert seen == [[]]


def test_cancel_wakes_at_once(bench: Bench) -> None:
    """Ctrl-C does not wait for the script, and leaves no child of ours."""
    cancel = Cancel()
    before = processes(bench.shell.cwd)

    def stop(_: str) -> None:
        cancel.set(signal.SIGINT)

    started = time.monotonic()
    with pytest.raises(Interrupted):
        bench.shell.run(
            b"echo go; sleep 60 >/dev/null; true", deadline=soon(), cancel=cancel, on_line=stop
        )
    assert time.monotonic() - started < 1
    until(lambda: set(processes(bench.shell.cwd)) <= set(before))
    assert bench.run("exit 4") == (4, []), "the connection outlives a cancelled script"


def test_a_deadline_ends_a_script(bench: Bench) -> None:
    """A script that does not end is given up at its limit, and the error names the stage."""
    with pytest.raises(DeadlineExceeded, match=r"transfer: no end within its limit of 0\.2 s"):
        bench.shell.run(b"sleep 60 >/dev/null; true", deadline=soon(0.2))


# --- trees ------------------------------------------------------------------------------------

ODD = (
    "plain", "with space", "it's", 'a "quote"', "-rf", "new\nline", "grün", "*", "$HOME",
    "back\\slash", "#", "sub/-x/~", "x" * 200,
)  # fmt: skip


def odd_tree(root: Path) -> Path:
    """A tree with all that a name, a mode and a link can be."""
    for name in (*ODD, os.fsdecode(b"latin-\xe9")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode(errors="surrogateescape") * 1000)
    (root / "empty").touch()
    (root / "empty folder").mkdir()
    (root / "script").write_bytes(b"#!/bin/sh\n")
    for name, mode in (("script", 0o755), ("plain", 0o600), ("empty", 0o640), ("sub", 0o750)):
        (root / name).chmod(mode)
    (root / "sub/link").symlink_to("../it's")
    (root / "dangling").symlink_to("nowhere")
    return root


def listing(root: Path) -> dict[str, tuple[str, int, object]]:
    """Every name with its mode, time and content."""
    found: dict[str, tuple[str, int, object]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = path.readlink()
        elif path.is_file():
            content = path.read_bytes()
        # A link's own time is nobody's concern.
        mtime = 0 if path.is_symlink() else int(status.st_mtime)
        found[str(path.relative_to(root))] = (stat.filemode(status.st_mode), mtime, content)
    return found


def test_a_tree_goes_in_and_comes_out_as_it_was(bench: Bench, tmp_path: Path) -> None:
    """Odd names, modes, times, links and empty folders survive both ways."""
    source = odd_tree(tmp_path / "source")
    where = bench.machine / "new folder" / "-and 'more'"
    pushed = bench.shell.push(source, where, deadline=soon())
    assert listing(bench.here / "new folder" / "-and 'more'") == listing(source)
    pulled = bench.shell.pull(where, tmp_path / "back", deadline=soon())
    assert listing(tmp_path / "back") == listing(source)
    assert len(pushed) == len(pulled) == 64


def test_a_large_file_goes_both_ways(bench: Bench, tmp_path: Path) -> None:
    """More than any pipe holds at once."""
    source = tmp_path / "source"
    source.mkdir()
    content = os.urandom(1 << 20) * 20
    (source / "large").write_bytes(content)
    bench.shell.push(source, bench.machine / "in", deadline=soon())
    bench.shell.pull(bench.machine / "in", tmp_path / "back", deadline=soon())
    assert (tmp_path / "back/large").read_bytes() == content


def test_an_empty_folder_goes_both_ways(bench: Bench, tmp_path: Path) -> None:
    """Nothing is something too."""
    (tmp_path / "nothing").mkdir()
    bench.shell.push(tmp_path / "nothing", bench.machine / "in", deadline=soon())
    bench.shell.pull(bench.machine / "in", tmp_path / "back", deadline=soon())
    assert listing(tmp_path / "back") == {}


def test_pushing_to_where_no_folder_can_be_says_why(bench: Bench, tmp_path: Path) -> None:
    """The machine's own words are in the error."""
    (bench.here / "file").touch()
    (tmp_path / "source").mkdir()
    with pytest.raises(EnvironmentFailure, match="file"):
        bench.shell.push(tmp_path / "source", bench.machine / "file", deadline=soon())


def test_pulling_a_missing_folder_says_so(bench: Bench, tmp_path: Path) -> None:
    """An output folder that the script removed is the script's fault."""
    with pytest.raises(VerificationFailed, match="no such folder in the machine"):
        bench.shell.pull(bench.machine / "none", tmp_path / "back", deadline=soon())


def test_a_stream_that_changes_on_its_way_is_noticed(bench: Bench, tmp_path: Path) -> None:
    """What arrives is compared with what was sent, in both directions."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("original")
    bench.shell.push(tmp_path / "source", bench.machine / "in", deadline=soon())
    real = "/usr/bin/tee"
    bench.shim("tee", f's() {{ LC_ALL=C sed "s/original/$1/"; }}; s 0riginal | {real} "$1" | cat')
    with pytest.raises(EnvironmentFailure, match="arrived damaged"):
        bench.shell.push(tmp_path / "source", bench.machine / "again", deadline=soon())
    bench.shim("tee", f'{real} "$1" | LC_ALL=C sed s/original/0riginal/')
    with pytest.raises(EnvironmentFailure, match="arrived damaged"):
        bench.shell.pull(bench.machine / "in", tmp_path / "back", deadline=soon())


def test_a_truncated_stream_is_noticed(bench: Bench, tmp_path: Path) -> None:
    """Half a tar is no tar, though every program on the way ends well."""
    (bench.here / "file").write_bytes(b"x" * 100_000)
    bench.shim("tar", 'PATH=/usr/bin:/bin; tar "$@" | head -c 50000')
    with pytest.raises(EnvironmentFailure, match=r"the tar stream is (truncated|damaged)"):
        bench.shell.pull(bench.machine, tmp_path / "back", deadline=soon())


def test_the_status_of_tar_counts(bench: Bench, tmp_path: Path) -> None:
    """A whole stream from a tar that failed is not trusted."""
    bench.shim("tar", 'PATH=/usr/bin:/bin; tar "$@"; echo unreadable >&2; exit 2')
    with pytest.raises(EnvironmentFailure, match="unreadable"):
        bench.shell.pull(bench.machine, tmp_path / "back", deadline=soon())


def test_a_hostile_stream_writes_nothing_outside(bench: Bench, tmp_path: Path) -> None:
    """A machine that answers with names of its own choice gets nowhere."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"))
    (bench.here / "hostile.tar").write_bytes(content.getvalue())
    bench.shim("tar", f"cat '{bench.here}/hostile.tar'")
    with pytest.raises(VerificationFailed, match="escaped"):
        bench.shell.pull(bench.machine, tmp_path / "back", deadline=soon())
    assert not (tmp_path / "escaped").exists()


def test_a_fifo_is_not_pulled(bench: Bench, tmp_path: Path) -> None:
    """Only files, folders and links leave a machine."""
    os.mkfifo(bench.here / "fifo")
    with pytest.raises(VerificationFailed, match="fifo"):
        bench.shell.pull(bench.machine, tmp_path / "back", deadline=soon())


# --- ssh only ---------------------------------------------------------------------------------


def test_a_reset_connection_is_a_lost_machine(own: Ssh, server: Sshd) -> None:
    """A script whose connection breaks has no status, and we know it at once."""
    started = time.monotonic()
    with pytest.raises(MachineLost):
        own.run(b"echo go; sleep 60", deadline=soon(), on_line=lambda _: cut(server))
    assert time.monotonic() - started < 5
    assert not own.check()
    with pytest.raises(MachineLost):
        own.run(b"true", deadline=soon())


def cut(server: Sshd) -> None:
    assert server.cut() > 0


def test_a_connection_reset_while_pulling_is_a_lost_machine(
    own: Ssh, server: Sshd, tmp_path: Path
) -> None:
    """The cause is named, not its consequence, which is a truncated stream."""
    shim, flag = server.shims / "tar", tmp_path / "flag"
    shim.write_text(f"#!/bin/sh\nhead -c 99999 /dev/zero; touch '{flag}'; sleep 60\n")
    shim.chmod(0o755)

    def reset() -> None:
        until(flag.exists)
        cut(server)

    breaker = threading.Thread(target=reset)
    breaker.start()
    try:
        with pytest.raises(MachineLost):
            own.pull(PurePosixPath(tmp_path), tmp_path / "back", deadline=soon())
    finally:
        breaker.join()


def test_another_host_key_is_refused_at_once(sshd: Sshd, tmp_path: Path) -> None:
    """A machine that is not the one we pinned is never talked to, nor asked again."""
    ssh = ssh_to(sshd, tmp_path / "own")
    ssh.pin(new_key(tmp_path / "other").with_suffix(".pub").read_text())
    started = time.monotonic()
    with pytest.raises(EnvironmentFailure, match="does not show the host key that was pinned"):
        ssh.wait(soon(), NEVER, yes)
    assert time.monotonic() - started < 5
    assert not processes(tmp_path)


def test_a_machine_without_a_pinned_key_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    """No key is not any key."""
    ssh = ssh_to(sshd, tmp_path / "own")
    (tmp_path / "own/known_hosts").unlink()
    with pytest.raises(EnvironmentFailure, match="does not show the host key that was pinned"):
        ssh.wait(soon(), NEVER, yes)


def test_pinning_anew_keeps_the_connection(own: Ssh, server: Sshd, tmp_path: Path) -> None:
    """A restored machine gets keys of its own while we talk to it."""
    own.pin(new_key(tmp_path / "other").with_suffix(".pub").read_text())
    assert own.run(b"exit 3", deadline=soon()) == 3
    own.close()
    own.pin(server.public_host_key)
    own.wait(soon(), NEVER, yes)
    assert own.run(b"exit 4", deadline=soon()) == 4


def test_closing_leaves_no_process_and_no_socket(own: Ssh) -> None:
    """Close ends the connection, and once more is harmless."""
    assert own.check()
    assert processes(own.folder)
    own.close()
    own.close()
    assert not own.check()
    assert not processes(own.folder)
    assert not [path for path in own.folder.iterdir() if path.is_socket()]
    with pytest.raises(MachineLost):
        own.run(b"true", deadline=soon())


def test_a_person_can_use_the_configuration(shared: Ssh, tmp_path: Path) -> None:
    """``ssh -F <folder>/ssh_config machine`` works from anywhere."""
    argv = ["ssh", "-F", str(shared.folder / "ssh_config"), "machine", "echo $((6 * 7))"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_a_machine_that_is_not_up_yet_is_found_soon(server: Sshd, tmp_path: Path) -> None:
    """Connections that were accepted too early are given up for new ones.

    The silent listener is what QEMU's user network is to the host while the machine boots.
    """
    server.stop()
    silent = socket.create_server((server.host, server.port))
    ssh = ssh_to(server, tmp_path / "own")
    asked: list[float] = []

    def alive() -> bool:
        asked.append(time.monotonic())
        if len(asked) == 5:
            silent.close()
            server.start(server.port)
        return True

    try:
        ssh.wait(soon(), NEVER, alive)
        assert time.monotonic() - asked[4] < 3
        assert ssh.run(b"exit 5", deadline=soon()) == 5
    finally:
        silent.close()
        ssh.close()


def test_waiting_ends_with_the_machine(tmp_path: Path) -> None:
    """Nobody waits for a machine that is dead."""
    ssh = unanswered(tmp_path)
    answers = iter([True, True, False])
    with pytest.raises(MachineLost, match="ended before ssh answered"):
        ssh.wait(soon(), NEVER, lambda: next(answers), pause_s=0.01)


def test_waiting_ends_at_its_deadline(tmp_path: Path) -> None:
    """The error says what was waited for, and where."""
    ssh = unanswered(tmp_path)
    with pytest.raises(DeadlineExceeded, match=f"ssh on 127.0.0.1:{ssh.port} to answer"):
        ssh.wait(soon(0.1), NEVER, yes, pause_s=0.01)


def test_waiting_ends_when_somebody_asks_to_stop(tmp_path: Path) -> None:
    """Ctrl-C during a boot is heard at once."""
    ssh = unanswered(tmp_path)
    cancel = Cancel()
    cancel.set(signal.SIGTERM)
    with pytest.raises(Interrupted):
        ssh.wait(soon(), cancel, yes)


def unanswered(folder: Path) -> Ssh:
    """An ssh to a port where nobody listens."""
    return Ssh(folder, host="127.0.0.1", port=free_port(), user="root", identity_file=folder / "k")


def test_a_refused_login_is_in_the_error(sshd: Sshd, tmp_path: Path) -> None:
    """At the deadline ssh's last words say why nobody got in."""
    ssh = ssh_to(sshd, tmp_path / "own")
    ssh.identity_file = new_key(tmp_path / "stranger")
    ssh.write_configuration()
    with pytest.raises(DeadlineExceeded, match="Permission denied"):
        ssh.wait(soon(3), NEVER, yes)
    assert not processes(tmp_path / "own")


def test_a_killed_orchestrator_leaves_no_connection(sshd: Sshd, tmp_path: Path) -> None:
    """The connection ends by itself when nobody holds it, even by SIGKILL."""
    ssh = ssh_to(sshd, tmp_path / "own")
    program = f"""
import time
from pathlib import Path
from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.transport.ssh import Ssh
ssh = Ssh(Path({str(ssh.folder)!r}), host="127.0.0.1", port={ssh.port}, user={ssh.user!r},
          identity_file=Path({str(ssh.identity_file)!r}))
ssh.wait(Deadline("boot", 20), NEVER, lambda: True)
print("up", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as orchestrator:
        assert orchestrator.stdout is not None
        assert orchestrator.stdout.readline() == b"up\n"
        assert processes(ssh.folder)
        orchestrator.kill()
    until(lambda: not processes(ssh.folder))
