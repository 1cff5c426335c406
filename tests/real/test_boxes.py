"""Boxes made on this host: Vagrant takes them, and they start with no help of ours."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.model import through_vagrant
from tests.conftest import require
from tests.real.customer import CHECKOUT, OUTPUT, VERSION, Customer, machines_below, virsh

BOX_TOOLS = ("mmdebstrap", "mke2fs", "qemu-img", "qemu-system-x86_64", "ssh", "vagrant")
LARGER = "9G"


@pytest.fixture
def customer(tmp_path: Path) -> Iterator[Customer]:
    require(*BOX_TOOLS)
    with tempfile.TemporaryDirectory(prefix="bo-", ignore_cleanup_errors=True) as home:
        found = Customer(tmp_path / f"customer-{VERSION}", Path(home))
        found.write_project()
        try:
            yield found
        finally:
            found.end_all()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_box_starts_from_its_own_disk(customer: Customer, tmp_path: Path) -> None:
    """Under plain QEMU, with Vagrant's key: sudo, rsync, host keys of its own, the whole disk."""
    made = customer.add_box("debian_bookworm_libvirt")
    assert (made["name"], made["version"]) == ("debian/bookworm64", VERSION)
    overlay = tmp_path / "overlay.qcow2"
    backing = customer.box_file("libvirt", "box.img")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, overlay, LARGER],
        check=True,
    )
    port = free_port()
    machine = subprocess.Popen(
        [
            *("qemu-system-x86_64", "-nodefaults", "-display", "none"),
            *("-machine", "pc", "-m", "768", "-smp", "2"),
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-serial", f"file:{tmp_path}/console"),
            *("-drive", f"file={overlay},if=virtio,cache=unsafe"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22"),
            *("-device", "virtio-net-pci,netdev=net", "-device", "virtio-rng-pci"),
        ]
    )
    try:
        ssh = [
            *("ssh", "-F", "none", "-p", str(port), "-i", str(customer.key), "vagrant@127.0.0.1"),
            *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={tmp_path}/known"),
            *("-o", "ConnectTimeout=10", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
        ]
        until = time.monotonic() + 300
        while subprocess.run([*ssh, "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < until, (tmp_path / "console").read_text(errors="replace")
            time.sleep(1)
        script = "sudo -n id -u; command -v rsync; df --output=size -BM / | tail -n 1; hostname"
        said = subprocess.run(
            [*ssh, script], capture_output=True, text=True, check=True
        ).stdout.split()
        subprocess.run([*ssh, "sudo poweroff"], capture_output=True, check=False)
        machine.wait(60)
    finally:
        machine.kill()
        machine.wait()
    assert said[:2] == ["0", "/usr/bin/rsync"]
    assert int(said[2].rstrip("M")) > 8600
    assert said[3] == "vagrant"
    assert b"ssh-ed25519" in (tmp_path / "known").read_bytes()


def test_plain_vagrant_builds_on_virtualbox(customer: Customer) -> None:
    """The committed Vagrantfile, from import to destroy, on the stand-in for VirtualBox."""
    target = "debian_bookworm_virtualbox"
    customer.add_box(target)
    customer.vagrant("up", target)
    members = customer.members(target)
    assert members["cloudify/env/user"] == "root\n"
    assert f"BUILD_TARGET={target}\n" in members["cloudify/env/variables"]
    assert members["cloudify/env/names"] == "name\npart\n"
    assert customer.states() == {target: "running", "debian_bookworm_libvirt": "not_created"}
    assert len(machines_below(customer.home)) == 1
    customer.vagrant("halt", target)
    assert customer.states()[target] == "poweroff"
    customer.vagrant("destroy", "-f", target)
    assert machines_below(customer.home) == []
    # What is left is the master that linked clones start from, as with VirtualBox.
    assert len(list((customer.home / "vbox").glob("*.json"))) == 1


@pytest.mark.usefixtures("vagrant_host")
def test_plain_vagrant_on_libvirt_builds_what_build_up_builds(customer: Customer) -> None:
    """The same bytes, and nothing is left in libvirt but the box."""
    target = "debian_bookworm_libvirt"
    customer.add_box(target)
    try:
        customer.vagrant("up", target)
        by_vagrant = (customer.folder / "dist" / target / OUTPUT).read_bytes()
        assert customer.members(target)["cloudify/env/variables"].startswith(
            f"BUILD_TARGET={target}"
        )
        assert customer.domain in virsh("list", "--all", "--name").split()
        customer.vagrant("destroy", "-f", target)
        assert customer.domain not in virsh("list", "--all", "--name").split()
        customer.build("up", target)
        assert (customer.folder / "dist/latest" / OUTPUT).read_bytes() == by_vagrant
    finally:
        customer.forget_libvirt()


def test_vagrant_accepts_every_target_in_order(tmp_path: Path) -> None:
    """The committed Vagrantfile, as it is: Ruby finds no slip, Vagrant knows each machine."""
    require("vagrant", "ruby")
    checked = subprocess.run(
        ["ruby", "-cw", "vagrant/Vagrantfile"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    customer = Customer(CHECKOUT, tmp_path)
    customer.vagrant("validate")
    targets = json.loads(customer.build("list", "--json"))
    expected = [row["name"] for row in targets if through_vagrant(row["provider"])]

    assert checked.stderr == ""
    assert list(customer.states()) == expected


PLUGIN = """\
# Stands in for the plugin vagrant-aws: its name, and the settings of its 0.7.2 that we use.
class AwsConfig < Vagrant.plugin("2", :config)
  attr_accessor :ami, :instance_type, :region, :availability_zone, :subnet_id,
    :associate_public_ip, :keypair_name, :security_groups, :ssh_host_attribute,
    :terminate_on_shutdown, :tags

  def validate(_machine)
    {"AWS" => ami.to_s.empty? ? ["no image"] : []}
  end
end

class AwsProvider < Vagrant.plugin("2", :provider)
  def initialize(_machine); end

  def state
    Vagrant::MachineState.new(:not_created, "not created", "")
  end
end

class AwsPlugin < Vagrant.plugin("2")
  name "vagrant-aws"
  config(:aws, :provider) { AwsConfig }
  provider(:aws) { AwsProvider }
end

load "CHECKOUT/vagrant/Vagrantfile"
"""


def test_who_has_the_plugin_for_aws_has_its_machines(tmp_path: Path) -> None:
    """The blocks for it are read by Vagrant, and reach the plugin; without it they are not there
    (the test above)."""
    require("vagrant", "ruby")
    folder = tmp_path / "project"
    (folder / "vagrant").mkdir(parents=True)
    (folder / "vagrant/Vagrantfile").write_text(PLUGIN.replace("CHECKOUT", str(CHECKOUT)))
    customer = Customer(folder, tmp_path)
    assert "no image" in customer.vagrant("validate", status=1)
    customer.environment["AWS_AMI"] = "ami-12345678"
    customer.vagrant("validate")
    targets = json.loads(Customer(CHECKOUT, tmp_path).build("list", "--json"))
    expected = [
        row["name"]
        for row in targets
        if row["provider"] == "aws" or through_vagrant(row["provider"])
    ]

    assert list(customer.states()) == expected
