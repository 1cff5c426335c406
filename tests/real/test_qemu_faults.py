"""What goes wrong in a real machine: the right exit code, the right blame, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.real.running import OUTPUT, TARGET, Project

READY = "touch /run/ready; echo READY; sleep 300"


def test_a_script_that_exits_7_is_a_build_failure(qemu_project: Project) -> None:
    """Exit 1, its last lines and the log's path; what it left is kept, unverified."""
    qemu_project.environment["TOKEN"] = "sup3rs3cret"
    script = (
        'echo half >"$BUILD_OUTPUT/{}"; echo "it is $TOKEN" >/dev/ttyS0; echo the last line; exit 7'
    )
    qemu_project.write(script.format(OUTPUT), secrets="[TOKEN]")

    ended = qemu_project.build("up", "debian_bookworm")

    assert ended.status == 1
    assert ended.row["outcome"] == "failed"
    assert ended.row["failure"]["rule"] == "script"
    assert ended.row["machine"] == "destroyed"
    assert "the last line" in ended.stdout
    assert ended.row["log"] in ended.stdout
    partial = Path(ended.row["log"]).parent / "partial" / OUTPUT
    assert partial.read_text() == "half\n"
    console = Path(ended.row["log"]).with_name("console.txt").read_text(errors="replace")
    assert "it is ***" in console, "nobody but us knows what is secret there"
    assert qemu_project.leftovers() == []


def test_a_full_disk_is_the_environments_fault(qemu_project: Project) -> None:
    """The script fails for want of room: exit 3, and the report says which rule decided."""
    qemu_project.write("fallocate -l $(($(df --output=avail -k / | tail -1) - 512))K /big; exit 1")

    ended = qemu_project.build("up", "debian_bookworm")

    assert (ended.status, ended.row["outcome"]) == (3, "environment"), ended.stderr
    assert ended.row["failure"]["rule"] == "file-system-full"
    assert qemu_project.leftovers() == []


def test_a_kernel_that_crashes_ends_its_machine_at_once(qemu_project: Project) -> None:
    """Exit 3 in seconds, not at the limit, and the console says what the kernel said."""
    qemu_project.write("echo c >/proc/sysrq-trigger; sleep 300")

    ended = qemu_project.build("up", "debian_bookworm")

    assert (ended.status, ended.row["outcome"]) == (3, "environment"), ended.stderr
    assert ended.row["failure"]["rule"] == "machine-lost"
    assert ended.row["stages_s"]["provision"] < 60
    console = Path(ended.row["log"]).with_name("console.txt").read_text(errors="replace")
    assert "sysrq triggered crash" in console
    assert qemu_project.leftovers() == []


def test_a_machine_without_memory_is_the_environments_fault(qemu_project: Project) -> None:
    """The kernel kills the script's child: exit 3 by the kernel's own count."""
    qemu_project.write("python3 -c 'x = []\nwhile True: x.append(b\"a\" * (1 << 20))'")

    ended = qemu_project.build("up", "debian_bookworm")

    assert (ended.status, ended.row["outcome"]) == (3, "environment"), ended.stderr
    assert ended.row["failure"]["rule"] == "out-of-memory"


def test_a_killed_qemu_is_a_lost_machine(qemu_project: Project) -> None:
    """Somebody kills QEMU while the script runs: exit 3, nothing left."""
    qemu_project.write(READY)
    build = qemu_project.start("up", "debian_bookworm")
    qemu_project.wait_for("READY", build)

    for pid in qemu_project.machines():
        os.kill(pid, signal.SIGKILL)

    assert build.wait(60) == 3
    assert qemu_project.row()["outcome"] == "environment"
    assert qemu_project.leftovers() == []


def test_lost_ssh_is_a_lost_machine(qemu_project: Project) -> None:
    """The machine lives, but its sshd is gone: exit 3, and the machine is destroyed."""
    qemu_project.write("(sleep 1; systemctl stop ssh; pkill -9 sshd) & echo READY; sleep 300")

    ended = qemu_project.build("up", "debian_bookworm")

    assert (ended.status, ended.row["outcome"]) == (3, "environment"), ended.stderr
    assert ended.row["machine"] == "destroyed"
    assert qemu_project.leftovers() == []


def test_an_unreachable_mirror_is_the_environments_fault(qemu_project: Project) -> None:
    """The shipped script asks its package sources first and exits 75."""
    qemu_project.write("exec ./provision/provision.sh", trust=True)
    shutil.copytree(Path(__file__).parents[2] / "provision", qemu_project.folder / "provision")
    shutil.copy(Path(__file__).parents[2] / "packager.yaml", qemu_project.folder)
    targets = qemu_project.folder / "targets.yaml"
    inputs = "inputs: [make.sh, provision/, packager.yaml]"
    targets.write_text(targets.read_text().replace("inputs: [make.sh]", inputs))

    ended = qemu_project.build("up", "debian_bookworm", http_proxy="http://127.0.0.1:9")

    assert (ended.status, ended.row["outcome"]) == (3, "environment"), ended.stderr
    assert ended.row["failure"]["rule"] == "status-75"


@pytest.mark.parametrize(
    ("option", "rule", "status"), [("boot_s: 300", "boot_s: 0.5", 3), ("provision_s", "", 1)]
)
def test_each_deadline_destroys_the_machine(
    qemu_project: Project, option: str, rule: str, status: int
) -> None:
    """Boot's deadline is the environment's (3), provision's the build's (1)."""
    qemu_project.write("sleep 300", provision_s=3)
    targets = qemu_project.folder / "targets.yaml"
    if rule:
        targets.write_text(targets.read_text().replace(option, rule))

    ended = qemu_project.build("up", "debian_bookworm")

    assert ended.status == status, ended.stderr
    assert "limit" in ended.row["failure"]["brief"]
    assert qemu_project.leftovers() == []


@pytest.mark.parametrize("words", ["boot started", "READY"])
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_destroys_the_machine(
    qemu_project: Project, words: str, signum: int, status: int
) -> None:
    """In boot and in provision: the run ends with the signal's code and leaves nothing."""
    qemu_project.write(READY)
    build = qemu_project.start("up", "debian_bookworm")
    qemu_project.wait_for(words, build)

    build.send_signal(signum)

    assert build.wait(60) == status
    assert qemu_project.row()["outcome"] == "cancelled"
    assert qemu_project.leftovers() == []


@pytest.mark.alone
@pytest.mark.parametrize("words", ["boot started", "READY"])
def test_sweep_finds_what_sigkill_left(qemu_project: Project, words: str) -> None:
    """Also when the checkout was deleted meanwhile; journal or name alone are enough."""
    qemu_project.write(READY)
    build = qemu_project.start("up", "debian_bookworm")
    qemu_project.wait_for(words, build)
    if words == "READY":
        spared = qemu_project.build("sweep").stdout
        assert f"spared     bo-{qemu_project.run_uuid()}-{TARGET}-1" in spared

    build.kill()
    build.wait()
    shutil.rmtree(qemu_project.folder)
    qemu_project.folder.mkdir()
    swept = qemu_project.build("sweep")

    assert swept.status == 0, swept.stderr
    assert "destroyed" in swept.stdout
    assert qemu_project.leftovers() == []
