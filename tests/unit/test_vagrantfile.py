"""The Vagrantfiles: every value is quoted, every target is there, nothing of ours is secret."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from build_orchestrator.configuration import load
from build_orchestrator.configuration.files import text_of
from build_orchestrator.errors import ConfigurationError, UsageError
from build_orchestrator.image import lock
from build_orchestrator.machine import PROVIDERS
from build_orchestrator.model import Size
from build_orchestrator.render.vagrantfile import TEMPLATE, Described, committed, ruby, single
from tests.conftest import require

ROOT = Path(__file__).parents[2]
TARGETS = """\
schema: 1
vagrant_providers: [hyperv]
defaults: {recipe: small, size: {disk_mib: 9000}}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers:
      libvirt: {image: {box: "debian/bookworm64", version: 12.20250126.1}}
      qemu: {image: {bootstrap: bookworm}}
      virtualbox:
        image: {box: own, path: own.box, sha256: SHA}
        size: {disk_mib: 20000}
      hyperv: {image: {box: generic/debian12, version: 4.3.12}}
  windows_2022:
    distribution: windows
    release: "2022"
    windows: true
    providers:
      virtualbox: {image: {box: gusztavvargadr/windows-server, version: 2102.0.2409}}
recipes:
  small:
    script: make.sh
    inputs: [make.sh]
    outputs: [{name: out.txt}]
    environment: {GREETING: "it's #{`id`} \\\\"}
    secrets: [TOKEN]
""".replace("SHA", "a" * 64)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "targets.yaml").write_text(TARGETS)
    (tmp_path / "make.sh").touch()
    return tmp_path


def rendered(project: Path) -> str:
    configuration = load(project, providers=frozenset(PROVIDERS))
    recipe = configuration.recipes["small"]
    known = lock.read(project)
    targets = [lock.with_lock(target, known) for target in configuration.targets.values()]
    return committed(text_of(project, TEMPLATE), targets, recipe, 1)


def test_every_target_of_vagrants_is_there_in_order(project: Path) -> None:
    """Those of other providers are not."""
    lines = [line for line in rendered(project).splitlines() if "config.vm.define" in line]

    assert [line.split("'")[1] for line in lines] == [
        "debian_bookworm_libvirt",
        "debian_bookworm_virtualbox",
        "debian_bookworm_hyperv",
        "windows_2022_virtualbox",
    ]


def test_machines_of_aws_are_refused_to_who_lacks_its_plugin(project: Path) -> None:
    """With the locked image, the address that resolves everywhere, and nothing secret."""
    row = """      aws:
        image: {ami_name: "debian-12-*", ami_owner: self}
        launch: {region: eu-west-1, user: admin, instance_types: [t3.small, t3.large]}
"""
    path = project / "targets.yaml"
    path.write_text(path.read_text().replace("      libvirt:", f"{row}      libvirt:"))
    plain = rendered(project)
    assert "provider.ami = ENV.fetch(\"AWS_AMI\", '')" in plain
    lock.write(
        project,
        [
            lock.Locked(
                image="self/debian-12-*", region="eu-west-1", arch="x86_64", ami="ami-12345678"
            )
        ],
    )
    text = rendered(project)

    assert text.count("next refuse.call(m, 'debian_bookworm_aws') unless aws\n") == 1
    assert text.count("refuse.call(") == text.count("provider 'aws'") == 1
    assert "provider.ami = ENV.fetch(\"AWS_AMI\", 'ami-12345678')" in text
    assert "provider.instance_type = 't3.small'" in text
    assert "provider.region = 'eu-west-1'" in text
    assert "provider.ssh_host_attribute = :public_ip_address" in text
    assert "m.ssh.username = 'admin'" in text
    assert "secret" not in text.lower()


def test_a_machine_has_its_boxs_disk_unless_its_own_row_says_otherwise(project: Path) -> None:
    """A default for all targets is made for images of ours, and most boxes are larger."""
    text = rendered(project)

    assert "machine_virtual_size" not in text
    assert text.count("m.vm.disk") == 1
    assert '"20000MB"' in text


def test_values_cannot_become_ruby(project: Path) -> None:
    """Ruby reads back what was in the file, whatever that looks like."""
    require("ruby")
    text = "it's #{`id`} \\ \n\" 'x' ü"
    program = f"print({ruby({text: (text, 3, True)})}.inspect)"
    done = subprocess.run(["ruby", "-e", program], capture_output=True, text=True, check=True)

    expected = subprocess.run(
        ["ruby", "-e", "print({ARGV[0] => [ARGV[0], 3, true]}.inspect)", text],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == expected.stdout
    assert "TOKEN" not in rendered(project)


READS = r"""
class Settings
  def define(name, **) = (@name = name; yield(self))
  def method_missing(*, **) = self

  def provision(_, env: nil, **)
    return unless env && @name == ARGV[0]
    # As Vagrant's shell provisioner writes the command that it runs in the machine.
    said = env.map { |key, value| "#{key}=\"#{value.gsub(/"/) { |m| "#{m}\\#{m}#{m}" }}\"" }
    exec("sh", "-c", "#{said.join(" ")} printenv GREETING PIP_INDEX_URL PIP_CERT")
  end
end
module Vagrant
  module Util
    module Which
      def self.which(_) = nil
    end
  end
  def self.configure(_) = yield(Settings.new)
end
"""


def test_values_reach_the_script_as_they_are(project: Path) -> None:
    """Those of targets.yaml and those of the customer's environment: no shell expands them.
    What the recipe says itself is not the host's to say."""
    require("ruby")
    path = project / "targets.yaml"
    text = path.read_text().replace("secrets: [TOKEN]", "pass_host_trust: true")
    path.write_text(text.replace("{GREETING:", "{PIP_CERT: /own.pem, GREETING:"))
    index = 'https://me:a$$b"c\\\\d`e@index.example/simple'
    done = subprocess.run(
        ["ruby", "-", "debian_bookworm_libvirt"],
        input=READS + rendered(project),
        env={**os.environ, "PIP_INDEX_URL": index, "SSL_CERT_FILE": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["it's #{`id`} \\", index, "/own.pem"]


BRINGS = r"""
class Settings
  def provision(*, **) = self
  def after(*) = @name == ARGV[0] ? yield(self) : self
  def ruby = yield(nil, self)
  def execute(shell, sudo:, **)
    yield(:stdout, `#{shell.sub("/var/lib/build-orchestrator/output", ARGV[1])}`) if sudo
  end
  def download(from, _) = puts(File.basename(from))
  def warn(words) = puts(words)
  def method_missing(*, **) = self
end
"""


def test_every_file_is_brought_out_and_what_is_not_is_named(project: Path) -> None:
    """A version of Debian's kind has a ~; a folder that a script leaves fails nothing,
    and the ssh user may read what root alone could."""
    require("ruby")
    for name in ("agent_7.1.0~rc1.tar.gz", "_part", "a b"):
        (project / "out" / name).parent.mkdir(exist_ok=True)
        (project / "out" / name).touch()
    (project / "out/_part").chmod(0o600)
    (project / "out/work").mkdir()
    (project / "vagrant").mkdir()
    done = subprocess.run(
        ["ruby", "-", "debian_bookworm_libvirt", str(project / "out")],
        cwd=project / "vagrant",
        input=READS + BRINGS + rendered(project),
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.splitlines()) == [
        'Not brought out: "a b", "work/"',
        "_part",
        "agent_7.1.0~rc1.tar.gz",
    ]
    assert (project / "out/_part").stat().st_mode & 0o777 == 0o644


def test_what_ruby_does_not_know_is_refused() -> None:
    """Such as a None that a template would print by mistake."""
    with pytest.raises(TypeError, match="Ruby"):
        ruby(None)


CLONES = """
module VagrantPlugins
  module ProviderVirtualBox
    module Driver
      class Version_5_0
        def clonevm(imported, snapshot) = raise("Vagrant's own name")
        def execute(*words) = puts(words.join(" "))
        def get_machine_id(name) = name
      end
      class Version_7_0 < Version_5_0; end
    end
  end
end
module Vagrant
  def self.configure(_) = puts(VagrantPlugins::ProviderVirtualBox::Driver::Version_7_0.new.clonevm("box", "base"))
end
"""  # noqa: E501 (a line of Ruby)


def test_a_linked_clone_has_the_machines_name_at_once() -> None:
    """Whichever version of VirtualBox it is; of other providers nothing is changed."""
    require("ruby")
    machine = Described(
        name="it's-1", target="a", provider="virtualbox", box="b", size=Size(), boot_s=9
    )
    text = single(text_of(None, TEMPLATE), machine)
    argv = ["ruby", "-e", f"{CLONES}{text}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "clonevm box --register --name it's-1 --snapshot base --options link",
        "it's-1",
    ]
    for other in ("libvirt", "hyperv"):
        described = dataclasses.replace(machine, provider=other)
        assert "clonevm" not in single(text_of(None, TEMPLATE), described)


def test_windows_runs_a_script_of_its_own(project: Path) -> None:
    """By a path that cmd reads, in the folder of the inputs."""
    path = project / "targets.yaml"
    more = (
        "script: make.sh\n    windows_script: windows/make.bat\n    windows_outputs: [{name: b}]\n"
    )
    path.write_text(path.read_text().replace("script: make.sh\n", more))
    (project / "windows").mkdir()
    (project / "windows/make.bat").touch()
    text = rendered(project)
    assert text.count("merge(\"BUILD_SCRIPT\" => 'make.sh')") == 3
    assert text.count("merge(\"BUILD_SCRIPT\" => 'windows\\\\make.bat')") == 1
    assert 'call "%BUILD_SCRIPT%" <nul' in text


@pytest.mark.parametrize("kind", ["committed", "single"])
def test_ruby_reads_it(project: Path, kind: str) -> None:
    """Both Vagrantfiles are clean Ruby."""
    require("ruby")
    machine = Described(
        name="a-1", target="a", provider="virtualbox", box="b", size=Size(), boot_s=9, ssh_port=22
    )
    text = rendered(project) if kind == "committed" else single(text_of(None, TEMPLATE), machine)
    done = subprocess.run(["ruby", "-wc"], input=text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "Syntax OK", "")


def test_a_template_that_names_nothing_is_told_with_its_line(project: Path) -> None:
    """The project's own template wins, with its mistakes."""
    (project / "vagrant").mkdir()
    place = project / "vagrant" / "Vagrantfile.j2"
    place.write_text("\n{{ machine.colour }}\n")
    with pytest.raises(UsageError, match=r"vagrant/Vagrantfile\.j2"):
        rendered(project)
    place.write_text("{% for machine in machines %}\n{{ machine.colour }}\n{% endfor %}\n")
    with pytest.raises(UsageError, match="colour"):
        rendered(project)


def test_the_committed_file_is_current() -> None:
    """`build render --write` writes it again."""
    configuration = load(ROOT, providers=frozenset(PROVIDERS))
    recipe = configuration.recipes[configuration.default_recipe]
    known = lock.read(ROOT)
    targets = [lock.with_lock(target, known) for target in configuration.targets.values()]
    text = committed(text_of(ROOT, TEMPLATE), targets, recipe, 1704067200)

    assert (ROOT / "vagrant/Vagrantfile").read_text() == text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("libvirt: {image: {box: a/b}}", "wants exactly one of version, url and path"),
        ("libvirt: {image: {box: a/b, version: '>= 1'}}", "is not one version"),
        (
            "libvirt: {image: {box: a/b, bootstrap: x}}",
            "exactly one of bootstrap and box, not both",
        ),
        ("hyperv: {image: {bootstrap: x}}", "are made for libvirt and virtualbox only"),
        ("libvirt: {image: {url: 'http://x/y'}}", "exactly one of bootstrap and box, not none"),
        ("libvirt: {image: {box: a/b, url: 'http://x/y'}}", "sha256: is missing"),
        ("libvirt: {image: {box: a/b, version: '1', kernel: k}}", "starts its own kernel"),
        ("libvirt: {image: {box: a/b, version: '1'}, communicator: winrm}", "windows: true"),
        ("qemu: {image: {bootstrap: x, box: a/b}}", "only Vagrant's providers"),
        (
            "qemu: {image: {bootstrap: x}, communicator: ssh}",
            "only machines of Vagrant's and of aws",
        ),
        ("libvrt: {image: {box: a/b, version: '1'}}", "did you mean libvirt?"),
    ],
)
def test_a_wrong_row_is_told_before_anything_boots(project: Path, row: str, words: str) -> None:
    """One problem, with its place and words that help."""
    text = (project / "targets.yaml").read_text()
    at = text.index("      libvirt:")
    end = text.index("  windows_2022:")
    (project / "targets.yaml").write_text(f"{text[:at]}      {row}\n{text[end:]}")
    with pytest.raises(ConfigurationError) as caught:
        load(project, providers=frozenset(PROVIDERS))
    (problem,) = caught.value.problems
    assert words in str(problem)
    assert problem.line == 9
