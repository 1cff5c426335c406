"""Vagrant boxes: first sector, description, bytes, and what refuses to make one."""

from __future__ import annotations

import json
import struct
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from build_orchestrator.image import bootable, box


def test_the_first_sector_starts_one_partition_up_to_the_end() -> None:
    """Boot code before the table, one active Linux partition, and the BIOS's mark at the end."""
    sector = bootable.first_sector(b"\xeb" * 512, 10_000)
    assert len(sector) == 512
    assert sector[:440] == b"\xeb" * 440
    assert struct.unpack("<B3sB3sII", sector[446:462])[::5] == (0x80, 10_000 - 2048)
    assert (sector[450], sector[462:510], sector[510:]) == (0x83, bytes(48), b"\x55\xaa")


def test_the_same_parts_give_the_same_box(tmp_path: Path) -> None:
    """Neither the time nor the owner of a part is in a box."""
    (tmp_path / "disk").write_bytes(b"disk")
    packed = []
    for name in ("one", "two"):
        place = tmp_path / name
        box._write_tar(place, {"metadata.json": "{}"}, {"box.img": tmp_path / "disk"})
        packed.append(place.read_bytes())
        (tmp_path / "disk").touch()
    assert packed[0] == packed[1]
    with tarfile.open(tmp_path / "one") as archive:
        assert archive.getnames() == ["metadata.json", "box.img"]


def test_the_description_names_the_disk_that_is_in_the_box() -> None:
    """It is XML without a gap, and its numbers are the disk's."""
    text = box._ovf("bookworm", 12345)
    assert "@" not in text
    ovf = "{http://schemas.dmtf.org/ovf/envelope/1}"
    root = ET.fromstring(text)
    file, disk = root.find(f".//{ovf}File"), root.find(f".//{ovf}Disk")
    assert file is not None
    assert disk is not None
    assert (file.get(f"{ovf}href"), file.get(f"{ovf}size")) == ("box-disk001.vmdk", "12345")
    assert disk.get(f"{ovf}capacity") == str(box.DISK_MIB << 20)


def test_what_a_box_holds_decides_its_key() -> None:
    """Suite and provider are in the key, so that none is taken for another."""
    keys = {box.key_of(suite, name) for suite in ("bookworm", "trixie") for name in box.PROVIDERS}
    assert len(keys) == 4


def test_a_catalogue_gives_a_box_name_version_and_checksum(tmp_path: Path) -> None:
    """In the form that `vagrant box add` reads."""
    made = box.Box(
        provider="libvirt", suite="bookworm", path=tmp_path, sha256="a" * 64, size_bytes=1
    )
    read = json.loads(box.catalogue(made, tmp_path / "my box.box", "debian/bookworm64", "12.1"))
    assert read["name"] == "debian/bookworm64"
    assert read["versions"][0]["version"] == "12.1"
    assert read["versions"][0]["providers"] == [
        {
            "name": "libvirt",
            "url": f"file://{tmp_path}/my%20box.box",
            "checksum_type": "sha256",
            "checksum": "a" * 64,
        }
    ]


TARGETS = """\
schema: 1
defaults: {recipe: small}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers:
      qemu: {image: {bootstrap: bookworm}}
      libvirt: {image: {box: debian/bookworm64, version: 12.20250126.1}}
  rocky_9:
    distribution: Rocky
    release: "9"
    providers: {libvirt: {image: {box: generic/rocky9, version: 4.3.12}}}
recipes:
  small: {script: make.sh, outputs: [{name: out.txt}]}
"""


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("debian_bookworn_libvirt", "did you mean debian_bookworm_libvirt?"),
        ("debian_bookworm_qemu", "boxes are made for libvirt and virtualbox"),
        ("rocky_9_libvirt", "rocky_9 is not bootstrapped"),
    ],
)
def test_a_box_that_cannot_be_made_is_refused_with_its_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    target: str,
    said: str,
) -> None:
    """Before anything is made."""
    from build_orchestrator.cli import run

    (tmp_path / "targets.yaml").write_text(TARGETS)
    (tmp_path / "make.sh").touch()
    monkeypatch.chdir(tmp_path)
    assert run(["box", target]) == 2
    assert said in capsys.readouterr().err
