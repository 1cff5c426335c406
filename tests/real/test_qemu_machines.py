"""Real machines: each has an identity of its own, however it was started."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.command import run
from build_orchestrator.deadline import Deadline
from build_orchestrator.locks import cache_home
from build_orchestrator.machine.qemu.process import make_overlay
from tests.conftest import require
from tests.real.running import OUTPUT, TARGET, Project

FACTS = f"""
{{
  cat /etc/machine-id; hostname; cat /etc/ssh/ssh_host_ed25519_key.pub; date +%s
  od -An -N16 -tx1 /dev/urandom; cut -d. -f1 /proc/uptime
}} >"$BUILD_OUTPUT/{OUTPUT}"
"""


def facts_of(project: Project) -> list[str]:
    """What the newest machine said about itself."""
    return Path(project.row()["artifacts"][0]["path"]).read_text().splitlines()


def test_two_warm_starts_share_nothing(qemu_project: Project) -> None:
    """Machine id, host name, host key and randomness differ, and the clock is right."""
    qemu_project.write(FACTS)
    found = []
    for _ in range(2):
        ended = qemu_project.build("up", "debian_bookworm")
        assert ended.status == 0, ended.stderr
        assert (ended.row["start"], ended.row["host_key"]) == ("warm", "image")
        facts = facts_of(qemu_project)
        assert abs(int(facts[3]) - time.time()) < 30
        found.append(facts)

    first, second = found
    differing = [one != other for one, other in zip(first, second, strict=True)]
    assert differing[:3] == [True, True, True]
    assert differing[4]


@pytest.mark.soak  # The contract of `cold` boots such machines in `make test`.
def test_cold_forces_a_full_boot(qemu_project: Project) -> None:
    """The machine's own uptime says so: it is the time since this boot began."""
    qemu_project.write(FACTS)

    ended = qemu_project.build("up", "debian_bookworm", "--cold")

    assert ended.status == 0, ended.stderr
    assert ended.row["start"] == "cold"
    assert int(facts_of(qemu_project)[5]) <= ended.row["stages_s"]["boot"] + 10
    assert "login:" in Path(ended.row["log"]).with_name("console.txt").read_text(errors="replace")


def test_a_kept_machine_can_be_looked_into_and_swept_by_name(qemu_project: Project) -> None:
    """--keep on-failure, then build ssh, and a sweep that spares it until it is named."""
    qemu_project.write("echo here >/root/trace; exit 3")

    ended = qemu_project.build("up", "debian_bookworm", "--keep", "on-failure")
    assert (ended.status, ended.row["machine"]) == (1, "kept")
    assert ended.row["kept_until"]

    looked = qemu_project.build("ssh", TARGET, "--", "cat", "/root/trace")
    assert looked.stdout == "here\n"
    assert "spared" in qemu_project.build("sweep").stdout
    assert len(qemu_project.machines()) > 0

    assert "destroyed" in qemu_project.build("sweep", TARGET).stdout
    assert qemu_project.leftovers() == []


@pytest.fixture
def served_image(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The bootstrapped image, offered over HTTP as a stranger's would be; with its checksums."""
    from build_orchestrator.image.bootstrap import key_of

    image = cache_home() / "images" / key_of("bookworm")
    if not image.is_dir():
        pytest.fail("test_two_warm_starts_share_nothing makes the image first")
    folder = tmp_path / "served"
    folder.mkdir()
    sums = {}
    for name in ("disk.qcow2", "vmlinuz", "initrd.img"):
        (folder / name).symlink_to(image / name)
        with (image / name).open("rb") as file:
            sums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", sums
    server.shutdown()
    server.server_close()


def image_row(address: str, sums: dict[str, str]) -> str:
    """The image of a targets.yaml row."""
    row = {
        "url": f"{address}/disk.qcow2",
        "sha256": sums["disk.qcow2"],
        "kernel": f"{address}/vmlinuz",
        "kernel_sha256": sums["vmlinuz"],
        "initrd": f"{address}/initrd.img",
        "initrd_sha256": sums["initrd.img"],
    }
    return json.dumps(row)


def test_a_downloaded_image_is_verified_kept_and_shared(
    qemu_project: Project, served_image: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    """Two runs fill an empty cache at once, once; a wrong checksum stops before boot."""
    address, sums = served_image
    cache = tmp_path / "cache"
    qemu_project.environment["XDG_CACHE_HOME"] = str(cache)
    qemu_project.write(FACTS, image=image_row(address, {**sums, "vmlinuz": "0" * 64}))

    refused = qemu_project.build("up", "debian_bookworm")

    assert refused.status == 3
    assert "checksum" in refused.row["failure"]["brief"]
    assert not list(cache.glob("build-orchestrator/images/*/"))

    qemu_project.write(FACTS, image=image_row(address, sums))
    runs = [qemu_project.start("up", "debian_bookworm") for _ in range(2)]
    assert [run.wait(400) for run in runs] == [0, 0]
    assert len(list(cache.glob("build-orchestrator/images/*/"))) == 1
    assert len(list(cache.glob("build-orchestrator/snapshots/*/"))) == 1
    assert not list(cache.glob("build-orchestrator/*/*.part"))
    assert qemu_project.leftovers() == []


def test_private_files_are_private(qemu_project: Project) -> None:
    """Keys and disks of a living machine are for their owner alone."""
    qemu_project.write("echo READY; sleep 60")
    build = qemu_project.start("up", "debian_bookworm")
    qemu_project.wait_for("READY", build)

    folders = list(qemu_project.state.glob("build-orchestrator/runs/*/machines/*"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in folders[0].iterdir()}
    build.terminate()

    assert build.wait(60) == 143
    assert folders[0].parent.parent.exists() is False
    assert modes["id_ed25519"] == 0o600
    assert (cache_home() / "snapshots").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("size_mib", "expected"), [(0, 96), (64, 96), (96, 96), (128, 128)])
def test_a_disk_is_never_smaller_than_its_image(
    tmp_path: Path, size_mib: int, expected: int
) -> None:
    """An image from elsewhere may be larger than targets.yaml asks for: its file system is, too."""
    require("qemu-img")
    image = tmp_path / "image.qcow2"
    run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(image), "96M"],
        deadline=Deadline("boot", 60),
    )
    make_overlay(tmp_path, backing=str(image), size_mib=size_mib, deadline=Deadline("boot", 60))
    argv = ["qemu-img", "info", "--output=json", str(tmp_path / "overlay.qcow2")]
    told = json.loads(run(argv, deadline=Deadline("boot", 60)).stdout)
    assert told["virtual-size"] == expected << 20
    assert told["full-backing-filename"] == str(image)
