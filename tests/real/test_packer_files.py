"""The committed packerfiles: for people who have only Packer, as a checkout has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from build_orchestrator.render.packerfile import path_of
from tests.conftest import require
from tests.real.running import CHECKOUT

FILES = sorted(str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob(path_of("*")))


@pytest.mark.parametrize("file", FILES)
def test_packer_accepts_every_committed_file(file: str, tmp_path: Path) -> None:
    """Told nothing but the file's name."""
    require("packer")
    done = subprocess.run(
        ["packer", "validate", file],
        cwd=CHECKOUT,
        env={"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(tmp_path), "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
