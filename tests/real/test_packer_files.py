"""The committed packerfiles: for people who have only Packer, as a checkout has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from build_orchestrator.configuration import load
from build_orchestrator.image.bake_inputs import rendered
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.render.packerfile import INSIDE, path_of
from tests.conftest import require
from tests.real.running import CHECKOUT

FILES = sorted(str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob(path_of("*")))


WORDS = "{{env `HOME`}} {{ %s"
"""What would mean something to Packer, or be an error."""

SCRIPT = f"{WORDS % 'install'}.sh"
TARGETS = {
    "schema": 1,
    "distros": {
        "debian_one": {
            "distribution": "Debian",
            "release": "one",
            "providers": {
                "qemu": {"image": {"url": "http://x/{d}}", "sha256": "0" * 64}},
                "aws": {
                    "image": {"ami_name": WORDS % "debian-*", "ami_owner": "self"},
                    "launch": {"region": "eu-west-1", "user": "admin"},
                },
            },
        }
    },
    "flavours": {"plain": {"script": SCRIPT}},
    "recipes": {"agent": {"script": SCRIPT, "outputs": [{"name": "out.txt"}]}},
}


def validate(file: str, *, project: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Tell Packer nothing but the file's name."""
    require("packer")
    return subprocess.run(
        ["packer", "validate", file],
        cwd=project,
        env={"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(home), "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("file", FILES)
def test_packer_accepts_every_committed_file(file: str, tmp_path: Path) -> None:
    done = validate(file, project=CHECKOUT, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_value_means_anything_to_packer(tmp_path: Path) -> None:
    """Each that may hold braces does; Packer looks for the script under the name that it has."""
    (tmp_path / "targets.yaml").write_text(yaml.safe_dump(TARGETS))
    (tmp_path / SCRIPT).write_text("exit 0\n")
    configuration = load(tmp_path, providers=frozenset(PROVIDERS))
    flavours = list(configuration.flavours.values())
    file = tmp_path / path_of("debian_one")
    file.parent.mkdir(parents=True)
    file.write_text(rendered(tmp_path, list(configuration.targets.values()), flavours))
    missing = validate(str(file), project=tmp_path, home=tmp_path)
    assert (missing.returncode, "packer/debian_one/../inside.sh" in missing.stdout) == (1, True)
    (tmp_path / INSIDE).write_text((CHECKOUT / INSIDE).read_text())
    done = validate(str(file), project=tmp_path, home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
