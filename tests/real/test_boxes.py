"""Boxes made on this host, and the committed Vagrantfile, for people who have only Vagrant.

What plain Vagrant builds on libvirt is held against `build up` in test_libvirt.py.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from build_orchestrator.model import through_vagrant
from tests.conftest import require
from tests.real.customer import CHECKOUT, VERSION, Customer, machines_below, members_of

BOX_TOOLS = ("mmdebstrap", "mke2fs", "qemu-img", "qemu-system-x86_64", "ssh", "vagrant")


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


def test_plain_vagrant_builds_on_virtualbox(customer: Customer) -> None:
    """The committed Vagrantfile, from import to destroy, on the stand-in for VirtualBox."""
    target = "debian_bookworm_virtualbox"
    customer.add_box(target)
    customer.vagrant("up", target)
    members = members_of(customer.collected(target))
    assert members["cloudify/env/user"] == "root\n"
    assert f"BUILD_TARGET={target}\n" in members["cloudify/env/variables"]
    assert members["cloudify/env/names"] == "name\npart\n"
    assert customer.states()[target] == "running"
    assert len(machines_below(customer.home)) == 1
    customer.vagrant("halt", target)
    assert customer.states()[target] == "poweroff"
    customer.vagrant("destroy", "-f", target)
    assert machines_below(customer.home) == []
    # What is left is the master that linked clones start from, as with VirtualBox.
    assert len(list((customer.home / "vbox").glob("*.json"))) == 1


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
