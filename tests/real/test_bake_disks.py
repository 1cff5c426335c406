"""The disk in which Packer bakes: as large as a build's, and when it is full, that is told."""

from __future__ import annotations

import pytest

from tests.real.baking import BakeProject

TARGET = "debian_bookworm_qemu"
LARGER = "qemu: {image: {bootstrap: bookworm}, size: {disk_mib: 9216}}"

# An image of ours has 8 GiB; what is allocated takes no room of this host.
FILLS_ITS_DISK = """\
size_kib=$(df -kP / | awk 'NR == 2 { print $2 }')
[ "$size_kib" -gt 8700000 ] || { echo "the disk has $size_kib KiB"; exit 9; }
n=0
for step in 4G 1G 256M 64M 16M 4M 1M; do
    while fallocate --length $step "/full.$n" 2>/dev/null; do n=$((n + 1)); done
done
echo more >/more
exit 3
"""


@pytest.mark.soak  # a whole bake more, for what tests/unit/test_packer_rows.py has of its words
def test_a_full_disk_inside_is_the_environments(bake_project: BakeProject) -> None:
    project = bake_project
    project.declare("exit 0", install=FILLS_ITS_DISK, providers=LARGER)
    ended = project.build("bake", TARGET)
    assert ended.status == 3, ended.stdout + ended.stderr
    assert ended.row["outcome"] == "environment"
    brief = ended.row["failure"]["brief"]
    assert brief == "/ in the machine is full, and the image's script ended with status 3"
    assert "size.disk_mib" in ended.stdout
    assert ended.row["machine"] == "destroyed"
    assert project.baked() == []
    assert project.leftovers() == []
