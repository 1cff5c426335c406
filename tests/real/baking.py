"""Projects whose images are baked, in a cache that shares its base images with all tests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from build_orchestrator.locks import cache_home
from build_orchestrator.machine import processes
from build_orchestrator.machine.baker import MARK
from tests.real.running import CHECKOUT, Project

STANDINS = CHECKOUT / "tests/standins"
SHARED = ("images", "box-disks", "boxes", "kvm")
TARGETS = """\
schema: 1
default_provider: qemu
defaults:
  recipe: small
  attempts: 1
  destinations: [dist/]
  size: {{cpus: 1, memory_mib: 1024}}
  deadlines: {{image_s: {image_s}, boot_s: 300, provision_s: 600, collect_s: 60}}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers: {{{providers}}}
flavours:
  prerequisites: {{script: install.sh}}
recipes:
  small:
    script: make.sh
    flavour: prerequisites
    inputs: {inputs}
    outputs: [{{name: "{{target}}.txt"}}]
    pass_host_trust: true
"""


class BakeProject(Project):
    """A project with one flavour."""

    def __init__(self, folder: Path, state: Path) -> None:
        super().__init__(folder, state)
        self.cache = state / "cache" / "build-orchestrator"
        self.cache.mkdir(parents=True)
        for name in SHARED:
            shared = cache_home() / name
            shared.mkdir(parents=True, exist_ok=True)
            (self.cache / name).symlink_to(shared)
        self.environment["XDG_CACHE_HOME"] = str(state / "cache")

    def declare(
        self,
        script: str,
        *,
        install: str = "exit 0\n",
        providers: str = "qemu: {image: {bootstrap: bookworm}}",
        inputs: str = "[make.sh]",
        image_s: float = 900,
    ) -> None:
        """Write targets.yaml, the recipe's script and the flavour's."""
        text = TARGETS.format(providers=providers, inputs=inputs, image_s=image_s)
        (self.folder / "targets.yaml").write_text(text)
        (self.folder / "make.sh").write_text(f"set -eu\n{script}\n")
        (self.folder / "install.sh").write_text(install)

    def declare_blank(self, **more: Any) -> None:
        """A target whose base image is an empty disk, which nobody boots."""
        disk = self.folder / "disk.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1M"], check=True, timeout=60
        )
        digest = subprocess.run(
            ["sha256sum", str(disk)], check=True, capture_output=True, text=True, timeout=60
        ).stdout.split()[0]
        providers = f"qemu: {{image: {{path: disk.qcow2, sha256: {digest}}}}}"
        self.declare("exit 0", providers=providers, **more)

    def stand_in(self, behaviour: str) -> None:
        """Let tests/standins/packer be Packer."""
        self.environment["PATH"] = f"{STANDINS}:{os.environ['PATH']}"
        self.environment["STANDIN_PACKER"] = behaviour

    def without_packer(self) -> None:
        """A PATH that has all but Packer."""
        folder = self.state / "bin"
        folder.mkdir()
        for name in ("qemu-img", "qemu-system-x86_64", "ssh", "ssh-keygen", "timeout", "debugfs"):
            found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
            assert found, name
            (folder / name).symlink_to(found)
        self.environment["PATH"] = str(folder)

    def baked(self) -> list[dict[str, Any]]:
        """What `build images` shows."""
        ended = self.build("images", "--json")
        assert ended.status == 0, ended.stderr
        rows: list[dict[str, Any]] = json.loads(ended.stdout)
        return rows

    def bakers(self) -> list[int]:
        """Every living process of a bake of this project."""
        mark = f"{MARK}=bo-"
        return [
            pid
            for pid in processes.find(
                lambda pid: any(line.startswith(mark) for line in processes.environment(pid))
            )
            if f"XDG_STATE_HOME={self.state}" in processes.environment(pid)
        ]

    def leftovers(self) -> list[str]:
        """Whatever should not be there any more: also half an image, and Packer's sockets."""
        found = super().leftovers() + [f"process {pid}" for pid in self.bakers()]
        return found + [str(path) for path in self.cache.glob("baked/*.part")]

    def destroy_all(self) -> None:
        super().destroy_all()
        for pid in self.bakers():
            os.kill(pid, 9)
