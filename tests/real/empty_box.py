"""A box for VirtualBox whose disk is empty: enough for all that happens before a machine starts."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

VAGRANTFILE = """\
Vagrant.configure("2") do |config|
  config.vm.base_mac = "080027B01DB0"
  MORE
end
"""


def write_box(place: Path, more: str = "") -> Path:
    """Write a box's files into a folder, and more into its Vagrantfile."""
    disk = place / "disk.vmdk"
    how = ["-q", "-f", "vmdk", "-o", "subformat=streamOptimized"]
    subprocess.run(["qemu-img", "create", *how, disk, "1M"], check=True)
    described = resources.files("build_orchestrator.image").joinpath("box.ovf").read_text()
    texts = {
        "metadata.json": '{"provider": "virtualbox"}',
        "Vagrantfile": VAGRANTFILE.replace("MORE", more),
        "box.ovf": described.replace("box-disk001.vmdk", disk.name),
    }
    for name, text in texts.items():
        (place / name).write_text(text)
    return place


def pack_box(file: Path, more: str = "") -> str:
    """Make a box, and return its checksum."""
    with tempfile.TemporaryDirectory() as place, tarfile.open(file, "w") as box:
        for path in sorted(write_box(Path(place), more).iterdir()):
            box.add(path, path.name)
    return hashlib.sha256(file.read_bytes()).hexdigest()
