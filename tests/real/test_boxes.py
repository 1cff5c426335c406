"""Boxes made on this host, and the committed Vagrantfile, for people who have only Vagrant.

What plain Vagrant builds on libvirt is held against `build up` in test_libvirt.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from build_orchestrator.deadline import NEVER, Deadline
from build_orchestrator.errors import EnvironmentFailure, HostNotReady
from build_orchestrator.machine.contract import silent
from build_orchestrator.machine.vagrant import failures
from build_orchestrator.machine.vagrant.boxes import file_box, place_of, public_box, version_of
from build_orchestrator.model import Image, ImageSource, through_vagrant
from tests.conftest import require
from tests.real.customer import CHECKOUT, VERSION, Customer, machines_below, members_of

BOX_TOOLS = ("mmdebstrap", "mke2fs", "qemu-img", "qemu-system-x86_64", "ssh", "vagrant")


def _empty_box() -> bytes:
    """A box that no machine starts from."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, text in {"metadata.json": b'{"provider": "libvirt"}', "box.img": b""}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text))
    return packed.getvalue()


EMPTY_BOX = _empty_box()


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


@pytest.mark.soak  # `make test` has the stand-in in the contract, and plain Vagrant on libvirt.
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


class Catalogue(BaseHTTPRequestHandler):
    """Has one box, in one version, for one provider, as public catalogues do."""

    def do_GET(self) -> None:
        """What Vagrant asks for."""
        here = f"http://{self.headers['Host']}"
        provider = {"name": "libvirt", "url": f"{here}/package.box"}
        versions = [{"version": "1.2.3", "providers": [provider]}]
        answers = {
            "/some/box": json.dumps({"name": "some/box", "versions": versions}).encode(),
            "/package.box": EMPTY_BOX,
        }
        answer = answers.get(self.path.partition("?")[0])
        self.send_response(404 if answer is None else 200)
        kind = "octet-stream" if self.path == "/package.box" else "json"
        self.send_header("Content-Type", f"application/{kind}")
        self.end_headers()
        self.wfile.write(answer or b"")

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None:
        """Nothing."""


@pytest.fixture
def catalogue() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Catalogue) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_public_box_is_fetched_or_told_why_not(
    catalogue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real Vagrant, from a catalogue on loopback."""
    require("vagrant")
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def fetch(box: str, version: str, server: str = catalogue) -> Image:
        monkeypatch.setenv("VAGRANT_SERVER_URL", server)
        source = ImageSource(box=box, version=version)
        limit = Deadline("image", 120)
        return public_box(source, "libvirt", deadline=limit, cancel=NEVER, on_line=silent)

    with pytest.raises(EnvironmentFailure, match="BoxAddShortNotFound"):
        fetch("some/box", "1.2.3", server="http://127.0.0.1:1")
    with pytest.raises(HostNotReady, match="BoxNotFound"):
        fetch("no/box", "1.2.3")
    with pytest.raises(HostNotReady, match="BoxAddNoMatchingVersion"):
        fetch("some/box", "9.9.9")
    assert fetch("some/box", "1.2.3").source == "some/box 1.2.3"
    assert fetch("some/box", "1.2.3", server="http://127.0.0.1:1").disk == "some/box"


def test_vagrant_has_every_error_that_we_tell_apart() -> None:
    """By its class: one that is called otherwise would be a cause that nobody is told."""
    require("vagrant")
    [own] = (
        path
        for place in ("/usr/share/rubygems-integration", "/opt/vagrant/embedded/gems")
        for path in Path(place).glob("**/vagrant-2*/lib/vagrant/errors.rb")
    )
    named = {*failures.NOT_READY, *failures.PASSING, *failures.FETCHING}
    assert named - {*re.findall(r"^    class (\w+) <", own.read_text(), re.MULTILINE)} == set()


def test_vagrant_accepts_every_target_in_order(tmp_path: Path) -> None:
    """The committed Vagrantfile, as it is: Ruby finds no slip, Vagrant knows each machine. Without
    a name it starts none; without the plugin for aws, it says so."""
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

    assert checked.stderr == ""
    assert list(customer.states()) == targets_of_vagrant(tmp_path)
    assert "No machines to bring up" in customer.vagrant("up")
    refused = customer.vagrant("up", "debian_bookworm_aws", status=1)
    assert "debian_bookworm_aws needs the plugin vagrant-aws: vagrant plugin install" in refused


def targets_of_vagrant(home: Path) -> list[str]:
    """Every target that Vagrant, or a plugin of its, has a provider for; in the matrix's order."""
    rows = json.loads(Customer(CHECKOUT, home).build("list", "--json"))
    return [
        row["name"] for row in rows if row["provider"] == "aws" or through_vagrant(row["provider"])
    ]


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


@pytest.mark.soak  # The same Vagrant reads the same file without the plugin in `make test`.
def test_who_has_the_plugin_for_aws_has_its_machines(tmp_path: Path) -> None:
    """The blocks for it are read by Vagrant, and reach the plugin, without ``--provider aws``."""
    require("vagrant", "ruby")
    folder = tmp_path / "project"
    (folder / "vagrant").mkdir(parents=True)
    (folder / "vagrant/Vagrantfile").write_text(PLUGIN.replace("CHECKOUT", str(CHECKOUT)))
    customer = Customer(folder, tmp_path)
    assert "no image" in customer.vagrant("validate", status=1)
    customer.environment["AWS_AMI"] = "ami-12345678"
    customer.vagrant("validate")

    assert list(customer.states()) == targets_of_vagrant(tmp_path)
    shown = customer.vagrant("status", "debian_bookworm_aws")
    assert re.search(r"debian_bookworm_aws +not created \(aws\)", shown)


def test_the_folder_of_a_box_that_was_broken_off_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vagrant itself neither uses what a killed one has left nor adds the box once more."""
    require("vagrant")
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    box = tmp_path / "empty.box"
    box.write_bytes(EMPTY_BOX)
    digest = hashlib.sha256(EMPTY_BOX).hexdigest()
    version = version_of(digest)
    half = tmp_path / "vagrant/boxes/empty" / version / "libvirt"
    half.mkdir(parents=True)
    limit = Deadline("image", 300)
    file_box("empty", box.as_uri(), digest, "libvirt", deadline=limit, cancel=NEVER, on_line=silent)
    assert place_of("empty", version, "libvirt") == half
    assert sorted(path.name for path in half.iterdir()) == ["box.img", "metadata.json"]
