"""Real images, baked by the real Packer: machines start from them and install nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest
import yaml

from build_orchestrator.machine import processes
from tests.real.baking import BakeProject
from tests.real.running import CHECKOUT

PROVISION = CHECKOUT / "provision"
TARGET = "debian_bookworm_qemu"
TWO = "debian_two_qemu"

# What every recipe's script of ours begins with.
USES_PREREQUISITES = """\
PREREQUISITES_DEFINE_ONLY=yes
. "$BUILD_INPUTS/install.sh"
echo '::phase prerequisites'
install_prerequisites
echo '::phase pack'
gcc --version >"$BUILD_OUTPUT/$BUILD_TARGET.txt"
"""

# The same, with what is quick to install.
SMALL = """\
install_prerequisites() {
    command -v bc >/dev/null && return
    echo installing bc
    for verb in update "install bc"; do
        apt-get -qq ${SSL_CERT_FILE:+-o "Acquire::https::CAInfo=$SSL_CERT_FILE"} $verb
    done
}
[ -n "${PREREQUISITES_DEFINE_ONLY:-}" ] || install_prerequisites
"""

# With everything it takes minutes more, for the same code of ours.
FLAVOURS = pytest.mark.parametrize(
    ("install", "has"),
    [
        pytest.param(SMALL, "bc", id="small"),
        pytest.param(
            (PROVISION / "prerequisites.sh").read_text(), "gcc", id="full", marks=pytest.mark.soak
        ),
    ],
)


@pytest.fixture
def project(bake_project: BakeProject) -> BakeProject:
    return bake_project


LIBVIRT = "debian_bookworm_libvirt"
POOL = Path("/var/lib/libvirt/images")


@pytest.mark.soak  # tests/real/test_bake_faults.py has each in `make test`, with a stand-in.
def test_a_broken_script_and_a_killed_packer_each_have_their_class(project: BakeProject) -> None:
    """Two bakes at once: neither takes the other's end for its own, and nothing stays."""
    project.declare("exit 0", install="echo at work; sleep 8; exit 7\n")
    content = yaml.safe_load((project.folder / "targets.yaml").read_text())
    content["distros"]["debian_two"] = {**content["distros"]["debian_bookworm"], "release": "two"}
    (project.folder / "targets.yaml").write_text(yaml.safe_dump(content))
    child = project.start("bake", "*", "-j2")
    until = time.monotonic() + 400
    while not any(
        "| at work" in log.read_text() for log in project.folder.glob(f"runs/*/{TWO}/l*")
    ):
        assert child.poll() is None, project.log()
        assert time.monotonic() < until
        time.sleep(0.1)
    for pid in project.bakers():
        program, *_ = processes.arguments(pid) or ("",)  # It may have ended meanwhile.
        is_of_two = any(TWO in each for each in processes.environment(pid))
        if Path(program).name == "packer" and is_of_two:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert child.wait(timeout=400) == 1
    rows = {each["target"]: each for each in project.rows()}
    assert (rows[TARGET]["outcome"], rows[TWO]["outcome"]) == ("failed", "environment")
    assert "ended with status 7" in rows[TARGET]["failure"]["brief"]
    assert "killed by SIGKILL" in rows[TWO]["failure"]["brief"]
    assert {each["machine"] for each in rows.values()} == {"destroyed"}
    assert project.baked() == []
    assert project.leftovers() == []


@pytest.mark.timeout(3000)
@pytest.mark.usefixtures("vagrant_host")
@FLAVOURS
def test_vagrant_starts_from_what_packer_baked(
    project: BakeProject, install: str, has: str
) -> None:
    project.environment["VAGRANT_HOME"] = os.environ["VAGRANT_HOME"]
    before = boxes_and_volumes()
    project.declare(
        USES_PREREQUISITES.replace("gcc", has),
        install=install,
        providers="libvirt: {image: {bootstrap: bookworm}}",
        inputs="[install.sh]",
    )
    # Which needs no libvirt: the daemon may be off.
    nowhere = "qemu+unix:///system?socket=/nowhere"
    baked = project.build("bake", LIBVIRT, LIBVIRT_DEFAULT_URI=nowhere)
    assert baked.status == 0, baked.stdout + baked.stderr
    (image,) = project.baked()
    assert image["file"] == "package.box"
    assert has in image["packages"]
    built = project.build("up", LIBVIRT, "--require-baked")
    assert built.status == 0, built.stdout + built.stderr
    log = next(project.folder.glob(f"runs/*/{LIBVIRT}/environment.sh")).with_name("log.txt")
    assert "installing" not in log.read_text(errors="replace")
    assert "prerequisites" in built.row["phases_s"]
    assert project.leftovers() == []

    (project.folder / "install.sh").write_text(f"{install}# another line\n")
    assert "removed" in project.build("images", "prune").stdout
    assert project.baked() == []
    assert boxes_and_volumes() <= before


def boxes_and_volumes() -> set[Path]:
    """What Vagrant and libvirt have of boxes that were baked here, whoever did it."""
    boxes = (Path(os.environ["VAGRANT_HOME"]) / "boxes").glob("*/*")
    return {path for path in (*boxes, *POOL.glob("*")) if "debian_bookworm-" in str(path)}
