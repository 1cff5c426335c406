"""targets.yaml is read strictly: everything wrong is reported at once, with its place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from build_orchestrator.configuration import Configuration, find_project, load
from build_orchestrator.errors import ConfigurationError, ExitCode, UsageError
from build_orchestrator.model import Deadlines, ImageSource, Output, Size, Target

EMPTY = "1:1: targets.yaml: is empty; see docs/reference/targets-yaml.md"
PROVIDERS = frozenset({"qemu", "fake"})
SHA256 = "ab" * 32

VALID = """\
schema: 1
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers:
      qemu: {image: {bootstrap: bookworm}}
      fake:
recipes:
  agent:
    script: provision/provision.sh
    inputs: [provision/, packager.yaml]
    outputs: [{name: "{distro}{version}.tar.gz", members: cloudify/env/}]
"""


def project(tmp_path: Path, text: str | bytes) -> Path:
    """A project with this targets.yaml and the files that VALID needs."""
    (tmp_path / "provision").mkdir(exist_ok=True)
    (tmp_path / "provision" / "provision.sh").write_text("exit 0\n")
    (tmp_path / "packager.yaml").write_text("{}\n")
    content = text.encode() if isinstance(text, str) else text
    (tmp_path / "targets.yaml").write_bytes(content)
    return tmp_path


def loaded(tmp_path: Path, text: str | bytes) -> Configuration:
    return load(project(tmp_path, text), providers=PROVIDERS)


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    """Every problem as ``line:column: key: message``."""
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text)
    assert caught.value.exit_code is ExitCode.USAGE
    return [str(each).removeprefix(f"{each.file}:") for each in caught.value.problems]


def replaced(old: str, new: str) -> str:
    assert VALID.count(old) == 1, "the test must change what it means to change"
    return VALID.replace(old, new)


def test_a_valid_file_becomes_a_configuration(tmp_path: Path) -> None:
    """Targets are distro x provider in the order of the file, with the tool's own defaults."""
    configuration = loaded(tmp_path, VALID)
    assert list(configuration.targets) == ["debian_bookworm_qemu", "debian_bookworm_fake"]
    target = configuration.targets["debian_bookworm_qemu"]
    assert target.image == ImageSource(bootstrap="bookworm")
    assert (target.size, target.deadlines, target.attempts) == (Size(), Deadlines(), 2)
    assert configuration.targets["debian_bookworm_fake"].image == ImageSource()
    recipe = configuration.recipes["agent"]
    assert recipe.outputs == (Output(name="{distro}{version}.tar.gz", members="cloudify/env/"),)
    assert recipe.destinations == ("dist/",)
    assert (configuration.default_recipe, configuration.default_provider) == ("agent", "qemu")
    assert configuration.project == tmp_path


def test_the_nearest_row_wins_key_by_key(tmp_path: Path) -> None:
    """A size is laid together from defaults, distro and target; the last that speaks wins."""
    text = replaced(
        "    providers:\n      qemu: {image: {bootstrap: bookworm}}\n",
        "    size: {cpus: 3, memory_mib: 512}\n"
        "    deadlines: {boot_s: 7}\n"
        "    providers:\n"
        "      qemu: {image: {bootstrap: b}, size: {cpus: 4}, deadlines: {image_s: 0.5}, "
        "attempts: 5}\n",
    )
    text += "defaults: {size: {cpus: 1, disk_mib: 1000}, attempts: 3, destinations: [out]}\n"
    configuration = loaded(tmp_path, text)
    target = configuration.targets["debian_bookworm_qemu"]
    assert target.size == Size(cpus=4, memory_mib=512, disk_mib=1000)
    assert (target.deadlines.boot_s, target.deadlines.image_s, target.attempts) == (7, 0.5, 5)
    assert configuration.targets["debian_bookworm_fake"].attempts == 3
    assert configuration.recipes["agent"].destinations == ("out",)


def test_the_files_own_default_provider_wins(tmp_path: Path) -> None:
    """The caller's default provider holds only where the file names none."""
    text = VALID + "default_provider: fake\n"
    assert loaded(tmp_path, text).default_provider == "fake"


def test_no_destination_is_a_choice(tmp_path: Path) -> None:
    """An empty list of destinations is not the same as none said."""
    text = replaced("    inputs:", "    destinations: []\n    inputs:")
    assert loaded(tmp_path, text).recipes["agent"].destinations == ()


def test_anchors_aliases_and_merges_are_accepted(tmp_path: Path) -> None:
    """What is shared may be written once, and what stands in the row itself wins."""
    text = replaced(
        "    release: bookworm\n", "    release: bookworm\n    size: &small {cpus: 1}\n"
    )
    text = text.replace(
        "recipes:",
        "  debian_trixie:\n    distribution: Debian\n    release: trixie\n"
        "    providers: {fake: {size: {<<: *small, memory_mib: 99}}}\n"
        "  debian_sid:\n    distribution: Debian\n    release: sid\n    size: *small\n"
        "    providers: {fake: {size: {<<: [*small], cpus: 8}}}\nrecipes:",
    )
    targets = loaded(tmp_path, text).targets
    assert targets["debian_trixie_fake"].size == Size(cpus=1, memory_mib=99)
    assert targets["debian_sid_fake"].size.cpus == 8


@pytest.mark.timeout(20)
def test_merges_of_merges_do_not_grow(tmp_path: Path) -> None:
    """Each of these lines merges the one before twice: taken literally, that is 2**40 entries."""
    layers = [f"  x{n}: &x{n} {{<<: [*x{n - 1}, *x{n - 1}]}}" for n in range(1, 41)]
    text = replaced("distros:", "\n".join(["distros:", "  x0: &x0 {color: red}", *layers]))
    found = problems(tmp_path, text)
    assert sum(".color: unknown key" in line for line in found) == 41


def test_a_merge_of_itself_ends(tmp_path: Path) -> None:
    """A mapping that merges itself is a problem, not an endless loop."""
    text = replaced("{bootstrap: bookworm}", "&me {bootstrap: bookworm, <<: *me}")
    assert problems(tmp_path, text) == [
        "7:47: distros.debian_bookworm.providers.qemu.image: << wants another mapping"
    ]


PASSWORD = (
    "holds a user or password, which everybody would be shown; take a server that asks for none, "
    "or fetch the file yourself and give its path"
)
PACKERS = "holds {{, which Packer takes for its own words, however it is quoted"

# fmt: off
MISTAKES = [
    ("    release: bookworm", "    release: 22.10", "5:14: distros.debian_bookworm.release",
     'YAML reads this as the number 22.1; quote it: "22.10"'),
    ("    release: bookworm", "    release: no", "5:14: distros.debian_bookworm.release",
     'YAML reads this as false; quote it: "no"'),
    ("    release: bookworm", "    release: On", "5:14: distros.debian_bookworm.release",
     'YAML reads this as true; quote it: "On"'),
    ("    release: bookworm", "    release: 2024-01-01", "5:14: distros.debian_bookworm.release",
     'YAML reads this as a date; quote it: "2024-01-01"'),
    ("    release: bookworm", "    release:", "5:13: distros.debian_bookworm.release",
     "wants text, not nothing"),
    ("    release: bookworm", "    release: [a]", "5:14: distros.debian_bookworm.release",
     "wants text, not a list"),
    ("    release: bookworm",
     "    release: bookworm\n    legcy: true",
     "6:5: distros.debian_bookworm.legcy",
     "unknown key, did you mean legacy?"),
    ("schema: 1", "schema: 2", "1:9: schema",
     "2 is not known here; it must be 1"),
    ("schema: 1", "schema: 1\npublish: no", "2:1: publish",
     ("unknown key; it can be budget, default_provider, defaults, distros, flavours, recipes, "
     "schema, vagrant_providers")),
    ("schema: 1", "schema: 1\ndefault_provider: qmeu", "2:19: default_provider",
     "unknown provider qmeu, did you mean qemu?"),
    ("schema: 1", "schema: 1\ndefaults: {recipe: agnet}", "2:20: defaults.recipe",
     "unknown recipe agnet, did you mean agent?"),
    ("schema: 1", "schema: 1\ndefaults: {size: {cpus: 0}}", "2:25: defaults.size.cpus",
     "0 is too small; at least 1"),
    ("schema: 1",
     "schema: 1\ndefaults: {size: {memory_mib: 1.5}}",
     "2:31: defaults.size.memory_mib",
     "wants a whole number, not the number 1.5"),
    ("schema: 1",
     'schema: 1\ndefaults: {size: {memory_mib: "512"}}',
     "2:31: defaults.size.memory_mib",
     'wants a whole number, not the text "512"'),
    ("schema: 1",
     "schema: 1\ndefaults: {deadlines: {boot_s: -5}}",
     "2:32: defaults.deadlines.boot_s",
     "-5 is too small; at least 0.05"),
    ("schema: 1",
     "schema: 1\ndefaults: {deadlines: {boot_s: 1:30}}",
     "2:32: defaults.deadlines.boot_s",
     "wants a number, not the number 1:30"),
    ("schema: 1",
     "schema: 1\ndefaults: {deadlines: {boot_s: .inf}}",
     "2:32: defaults.deadlines.boot_s",
     "wants a number, not the number .inf"),
    ("schema: 1", "schema: 1\ndefaults: {attempts: 11}", "2:22: defaults.attempts",
     "11 is too large; at most 10"),
    ("schema: 1",
     "schema: 1\ndefaults: {destinations: [ftp://x]}",
     "2:27: defaults.destinations[0]",
     "unknown scheme ftp; it can be s3"),
    ("schema: 1",
     "schema: 1\ndefaults: {destinations: ['s3:/bucket']}",
     "2:27: defaults.destinations[0]",
     "is not of the form s3://bucket/prefix (bucket: 3 to 63 of a-z, 0-9, . and -)"),
    ("schema: 1",
     "schema: 1\ndefaults: {destinations: [dist, ./dist/]}",
     "2:33: defaults.destinations[1]",
     "./dist/ is the same place as dist"),
    ("  debian_bookworm:", "  debian-bookworm:", "3:3: distros.debian-bookworm",
     "is not a name here: lower-case letters and digits joined by single _"),
    ("  debian_bookworm:", "  debian_qemu:", "4:5: distros.debian_qemu",
     "a distro's name must not end in a provider's (_qemu)"),
    ("    release: bookworm",
     "    release: bookworm\n    arch: amd64",
     "6:11: distros.debian_bookworm.arch",
     "'amd64' is unknown, did you mean arm64?"),
    ("    release: bookworm",
     "    release: bookworm\n    arch: arm64",
     "6:11: distros.debian_bookworm.arch",
     "the distro's name must then end in _arm64"),
    ("    release: bookworm",
     "    release: bookworm\n    legacy: maybe",
     "6:13: distros.debian_bookworm.legacy",
     'wants true or false, not the text "maybe"'),
    ("    release: bookworm",
     "    release: bookworm\n    ssh: {options: [MACs=x]}",
     "6:20: distros.debian_bookworm.ssh.options",
     "only a distro with legacy: true may have them"),
    ("    release: bookworm",
     "    release: bookworm\n    legacy: true\n    ssh: {options: [StrictHostKeyChecking=no]}",
     "7:21: distros.debian_bookworm.ssh.options[0]",
     ("StrictHostKeyChecking is not an algorithm; it can be CASignatureAlgorithms, Ciphers, "
      "HostKeyAlgorithms, KexAlgorithms, MACs, PubkeyAcceptedAlgorithms, "
      "PubkeyAcceptedKeyTypes, RequiredRSASize")),
    ("      fake:",
     "      fake: {options: {fail_att: boot}}",
     "8:34: distros.debian_bookworm.providers.fake.options.fail_att",
     "unknown option fail_att, did you mean fail_at?"),
    ("      fake:",
     "      fake: {options: {fail_at: bot}}",
     "8:33: distros.debian_bookworm.providers.fake.options.fail_at",
     "unknown value bot, did you mean boot?"),
    ("      fake:",
     "      fake: {options: {boot_s: '-1'}}",
     "8:32: distros.debian_bookworm.providers.fake.options.boot_s",
     "'-1' is no number of seconds"),
    ("      fake:",
     "      kemu: {image: {bootstrap: b}}",
     "8:13: distros.debian_bookworm.providers.kemu",
     "unknown provider kemu, did you mean qemu?"),
    ("{image: {bootstrap: bookworm}}", "", "7:12: distros.debian_bookworm.providers.qemu.image",
     "is missing: what its machines start from"),
    ("{bootstrap: bookworm}", "{}", "7:21: distros.debian_bookworm.providers.qemu.image",
     "wants exactly one of bootstrap, url and path, not none of them"),
    ("{bootstrap: bookworm}",
     f"{{path: a, url: 'http://a', sha256: {SHA256}}}",
     "7:21: distros.debian_bookworm.providers.qemu.image",
     "wants exactly one of bootstrap, url and path, not url and path"),
    ("{bootstrap: bookworm}",
     "{path: disk.qcow2}",
     "7:21: distros.debian_bookworm.providers.qemu.image.sha256",
     "is missing; path needs it"),
    ("{bootstrap: bookworm}",
     "{url: 'ftp://x', sha256: " + SHA256 + "}",
     "7:27: distros.debian_bookworm.providers.qemu.image.url",
     "'ftp://x' is not an address that begins with https:// or http://"),
    ("{bootstrap: bookworm}",
     "{path: disk.qcow2, sha256: abc}",
     "7:48: distros.debian_bookworm.providers.qemu.image.sha256",
     "'abc' is not 64 hex digits"),
    ("{bootstrap: bookworm}",
     f"{{path: d, sha256: {SHA256}, kernel: vmlinuz}}",
     "7:113: distros.debian_bookworm.providers.qemu.image.kernel",
     "kernel and kernel_sha256 go together"),
    ("{bootstrap: bookworm}",
     "{url: 'https://me:hush@x/d', sha256: " + SHA256 + "}",
     "7:27: distros.debian_bookworm.providers.qemu.image.url",
     PASSWORD),
    ("{bootstrap: bookworm}",
     f"{{path: d, sha256: {SHA256}, kernel: 'http://me@x/k', kernel_sha256: {SHA256}}}",
     "7:113: distros.debian_bookworm.providers.qemu.image.kernel",
     PASSWORD),
    ("{bootstrap: bookworm}",
     "{url: 'https://x/{{d', sha256: " + SHA256 + "}",
     "7:27: distros.debian_bookworm.providers.qemu.image.url",
     f"{PACKERS}; in an address they can be written %7B%7B"),
    ("{bootstrap: bookworm}",
     "{path: 'a/{{d', sha256: " + SHA256 + "}",
     "7:28: distros.debian_bookworm.providers.qemu.image.path",
     f"{PACKERS}; rename the file"),
    ("    inputs:",
     "    environment: {SOURCE: 'git+https://me:hush@x/y'}\n    inputs:",
     "12:27: recipes.agent.environment.SOURCE",
     "holds a password, which everybody would be shown; export it, and name it in secrets"),
    ("provision/provision.sh", "provision/provison.sh", "11:13: recipes.agent.script",
     "provision/provison.sh does not exist, did you mean provision/provision.sh?"),
    ("provision/provision.sh", "provision", "11:13: recipes.agent.script",
     "provision is a folder, not a file"),
    ("provision/provision.sh", "/etc/passwd", "11:13: recipes.agent.script",
     "'/etc/passwd' must be a path inside the project"),
    ("packager.yaml", "../packager.yaml", "12:26: recipes.agent.inputs[1]",
     "'../packager.yaml' must be a path inside the project"),
    ("packager.yaml", "nowhere/x", "12:26: recipes.agent.inputs[1]",
     "nowhere/x does not exist; there is no folder nowhere"),
    ("packager.yaml", "x" * 256, "12:26: recipes.agent.inputs[1]",
     f"{'x' * 256} does not exist"),
    ("packager.yaml", "x" * 256 + "/y", "12:26: recipes.agent.inputs[1]",
     f"{'x' * 256}/y does not exist; there is no folder {'x' * 256}"),
    ("packager.yaml", "provision/", "12:26: recipes.agent.inputs[1]",
     "provision/ is listed twice"),
    ("    inputs:",
     "    requirements_lock: lock.txt\n    inputs:",
     "12:24: recipes.agent.requirements_lock",
     "lock.txt does not exist"),
    ("{distro}{version}", "{distor}", "13:22: recipes.agent.outputs[0].name",
     "unknown placeholder {distor}, did you mean distro?"),
    ('{distro}{version}.tar.gz", members: cloudify/env/',
     'log.txt"',
     "13:22: recipes.agent.outputs[0].name",
     "is a file that the tool itself keeps in the run folder"),
    ("{distro}{version}", "a/b", "13:22: recipes.agent.outputs[0].name",
     "is a file name, so it must not hold / or \\"),
    ("{distro}{version}", "{distro", "13:22: recipes.agent.outputs[0].name",
     "a brace without its partner"),
    ('{distro}{version}.tar.gz", members: cloudify/env/',
     'a.sha256"',
     "13:22: recipes.agent.outputs[0].name",
     "ends in .sha256, which belongs to the files beside an artifact"),
    ("cloudify/env/", "../x/", "13:59: recipes.agent.outputs[0].members",
     "must not hold . or .."),
    ('[{name: "{distro}{version}.tar.gz", members: cloudify/env/}]',
     "[]",
     "13:14: recipes.agent.outputs",
     "must not be empty"),
    ("    inputs:",
     "    environment: {DEBUG: 1}\n    inputs:",
     "12:26: recipes.agent.environment.DEBUG",
     'YAML reads this as the number 1; quote it: "1"'),
    ("    inputs:",
     '    environment: {VERSION: "1"}\n    inputs:',
     "12:28: recipes.agent.environment.VERSION",
     "is given to the script by the tool itself"),
    ("    inputs:", "    secrets: [a-b]\n    inputs:", "12:15: recipes.agent.secrets[0]",
     "'a-b' is not a variable's name, or NAME=path"),
    ("    inputs:", "    secrets: [A_B, A_B=file]\n    inputs:", "12:20: recipes.agent.secrets[1]",
     "A_B is listed twice"),
    ("    inputs:", "    secrets: [MACHINE_ROOT=x]\n    inputs:", "12:15: recipes.agent.secrets[0]",
     "is given to the script by the tool itself"),
    ("packager.yaml]", "./]", "12:26: recipes.agent.inputs[1]",
     "./ is the whole project, runs included; list what is needed"),
    ("schema: 1\n", "schema: 1\ndefaults: {attempts: " + "9" * 400 + "}\n",
     "2:22: defaults.attempts", "a number of 400 digits is too large"),
    ("schema: 1\n", "schema: 1\ndefaults: {attempts: " + "9" * 5000 + "}\n",
     "2:22: defaults.attempts", "a number of 5000 digits is too large"),
    ("    release: bookworm", "    release: bookworm\n    legacy: !!bool banana",
     "6:13: distros.debian_bookworm.legacy",
     "wants true or false, not something tagged tag:yaml.org,2002:bool"),
]
# fmt: on


@pytest.mark.parametrize(("old", "new", "place", "message"), MISTAKES)
def test_one_mistake_gives_one_problem(
    tmp_path: Path, old: str, new: str, place: str, message: str
) -> None:
    """Each mistake is told once, at its place, with the nearest valid name."""
    assert problems(tmp_path, replaced(old, new)) == [f"{place}: {message}"]


def test_every_problem_is_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    """One wrong field hides no other, whether it is wrong by type, by rule or by what it means."""
    text = replaced("    release: bookworm", "    release: 22.10\n    colour: red")
    text = text.replace("qemu: {image: {bootstrap: bookworm}}", "qemu: {image: {}}")
    text = text.replace("packager.yaml", "packer.yml").replace("members:", "member:")
    assert [each.split(": ")[1] for each in problems(tmp_path, text)] == [
        "distros.debian_bookworm.release",
        "distros.debian_bookworm.colour",
        "distros.debian_bookworm.providers.qemu.image",
        "recipes.agent.inputs[1]",
        "recipes.agent.outputs[0].member",
    ]


def test_a_key_given_twice_is_told_and_both_are_read(tmp_path: Path) -> None:
    """YAML keeps the last of two equal keys without a word; we do not."""
    text = replaced("    release: bookworm", "    release: bookworm\n    release: 13")
    assert problems(tmp_path, text) == [
        "6:5: distros.debian_bookworm.release: is given twice; the first is on line 5",
        '6:14: distros.debian_bookworm.release: YAML reads this as the number 13; quote it: "13"',
    ]


@pytest.mark.parametrize("name", ["debian_bookworm", "Debian_Bookworm"])
def test_distros_of_one_name_are_told(tmp_path: Path, name: str) -> None:
    """Names that differ by case only would meet in file names."""
    text = VALID.replace(
        "recipes:",
        f"  {name}: {{distribution: D, release: r, providers: {{fake: }}}}\nrecipes:",
    )
    found = problems(tmp_path, text)
    assert f"9:3: distros.{name}: is given twice; the first is on line 3" in found


def test_recipes_of_one_name_are_told(tmp_path: Path) -> None:
    """A recipe's name is taken once."""
    text = VALID + "  AGENT: {script: packager.yaml, outputs: [{name: x}]}\n"
    assert "14:3: recipes.AGENT: is given twice; the first is on line 10" in problems(
        tmp_path, text
    )


def test_targets_that_join_to_one_name_are_told(tmp_path: Path) -> None:
    """``a`` on ``b_c`` and ``a_b`` on ``c`` would both be ``a_b_c``."""
    text = VALID.replace(
        "recipes:",
        "  a: {distribution: D, release: r, providers: {b_c: {image: {box: b, version: '1'}}}}\n"
        "  a_b: {distribution: D, release: r, providers: {c: {image: {box: b, version: '1'}}}}\n"
        "recipes:",
    )
    with pytest.raises(ConfigurationError) as caught:
        load(project(tmp_path, text), providers=PROVIDERS | {"b_c", "c"})
    assert [each.message for each in caught.value.problems] == [
        "target a_b_c exists already, of distro a"
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", EMPTY),
        (b"# nothing\n", EMPTY),
        (b"a: \xff", "1:4: targets.yaml: byte 0xff is not UTF-8"),
        (
            "schema: 1\n# é\ndistros: \n".encode() + b"\xe9",
            ("4:1: targets.yaml: byte 0xe9 is not UTF-8"),
        ),
        ("é: ".encode() + b"\xff", "1:4: targets.yaml: byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbfa: \xff", "1:4: targets.yaml: byte 0xff is not UTF-8"),
        (b"[" * 200_000, "1:1: targets.yaml: not readable: nested too deeply"),
        (b"- " * 200_000, "1:1: targets.yaml: not readable: nested too deeply"),
        (b"a: b: c", "1:5: targets.yaml: not YAML: mapping values are not allowed in this context"),
        (b"a: *nope", "1:4: targets.yaml: not YAML: found undefined alias"),
        (
            b"- a",
            (
                "1:1: targets.yaml: wants a mapping of schema, default_provider, defaults, "
                "budget, vagrant_providers, "
                "distros, flavours, recipes, not a list"
            ),
        ),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    """A file that cannot be read as YAML gives one problem, not a stack trace."""
    assert problems(tmp_path, content) == [expected]


@pytest.mark.parametrize("content", [b"a: [1,", b"a\0b", b"[" * 5000, b"a: 1\n---\nb: 2"])
def test_any_broken_file_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    """However broken the file, the user gets an error of ours."""
    assert len(problems(tmp_path, content)) == 1


def test_without_the_c_library_reading_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyYAML may come without libyaml; its own composer then also gives up on deep nesting."""
    text = replaced("    release: bookworm", "    release: 22.10\n    colour: red")
    with_library = problems(tmp_path, text)
    monkeypatch.setattr("build_orchestrator.configuration.reading._LOADER", yaml.SafeLoader)
    assert problems(tmp_path, text) == with_library
    deep = "a: " + "[" * 3000 + "]" * 3000
    assert problems(tmp_path, deep) == ["1:1: targets.yaml: not readable: nested too deeply"]


def test_a_secret_may_be_a_file_of_the_project(tmp_path: Path) -> None:
    """Its path is relative to the project, or to a home."""
    text = replaced("    inputs:", "    secrets: [A, B=keys/b, C=/c, D=~/d]\n    inputs:")
    secrets = loaded(tmp_path, text).recipes["agent"].secrets
    assert secrets == ("A", f"B={tmp_path}/keys/b", "C=/c", "D=~/d")


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    assert loaded(tmp_path, b"\xef\xbb\xbf" + VALID.encode()).targets


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """No file is a problem of that file."""
    with pytest.raises(ConfigurationError, match=r"targets\.yaml: cannot be read: No such file"):
        load(tmp_path, providers=PROVIDERS)


def test_problems_name_the_file_as_the_user_would_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative where the project is below the current folder, else absolute."""
    project(tmp_path, "a: 1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"\ntargets\.yaml:1:1: a: unknown key"):
        load(tmp_path, providers=PROVIDERS)


def test_the_project_is_the_nearest_folder_with_a_targets_file(tmp_path: Path) -> None:
    """From a folder deep inside a project its root is found."""
    deep = project(tmp_path, VALID) / "provision" / "deep"
    deep.mkdir()
    assert find_project(deep) == tmp_path
    (tmp_path / "targets.yaml").unlink()
    with pytest.raises(UsageError, match=r"no targets\.yaml"):
        find_project(deep)


def test_thirty_targets_are_read_in_under_30_ms(tmp_path: Path) -> None:
    """`build list` must feel instant: CPU time, the best of five."""
    row = "  d%d: {distribution: D, release: r, providers: {qemu: {image: {bootstrap: b}}}}\n"
    rows = "".join(row % number for number in range(30))
    folder = project(tmp_path, VALID.replace("recipes:", f"{rows}recipes:"))
    spent = []
    for _ in range(5):
        start = time.process_time()
        assert len(load(folder, providers=PROVIDERS).targets) == 32
        spent.append(time.process_time() - start)
    assert min(spent) < 0.030


AWS = """\
schema: 1
defaults:
  launch: {region: eu-west-1, zones: [eu-west-1a, eu-west-1b], spot: true}
distros:
  debian_bookworm:
    distribution: Debian
    release: bookworm
    providers:
      aws:
        image: {ami_name: debian-12-*, ami_owner: "136693071363"}
        launch: {user: admin, instance_types: [t3.small, t3a.small], spot: false}
recipes:
  agent: {script: provision/provision.sh, outputs: [{name: "{distro}.txt"}]}
"""
CLOUD = frozenset({"qemu", "aws"})


def test_how_to_launch_is_layered(tmp_path: Path) -> None:
    """A target's own word wins over the defaults, and a subnet over the zones of all others."""
    target = load(project(tmp_path, AWS), providers=CLOUD).targets["debian_bookworm_aws"]
    assert target.image.ami_owner == "136693071363"
    assert target.options == {
        "region": "eu-west-1",
        "zones": "eu-west-1a eu-west-1b",
        "spot": "false",
        "user": "admin",
        "instance_types": "t3.small t3a.small",
    }
    text = AWS.replace("spot: false", "subnet_id: subnet-01234567")
    target = load(project(tmp_path, text), providers=CLOUD).targets["debian_bookworm_aws"]
    assert "zones" not in target.options
    text = AWS.replace("spot: false", "region: eu-north-1")
    target = load(project(tmp_path, text), providers=CLOUD).targets["debian_bookworm_aws"]
    assert (target.options["region"], "zones" in target.options) == ("eu-north-1", False)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("image: {ami_name: debian-12-*, ", "image: {", "ami_name and ami_owner go together"),
        ("image: {ami_name", "image: {bootstrap: bookworm, ami_name", "images of its own"),
        ("user: admin", "host_key: first-use", "first-use goes with address: private"),
        ("user: admin", "allow_from: 10.0.0.1/8", "is not a range of addresses"),
        ("user: admin", "zone: eu-west-1a", "did you mean zones?"),
        ("eu-west-1a, eu-west-1b], spot: true", "eu-west-1a], subnet_id: subnet-01234567", "zones"),
        ("[t3.small, t3a.small]", "[]", "must not be empty"),
        ("[eu-west-1a, eu-west-1b]", "[]", "must not be empty"),
        ("eu-west-1b]", "us-east-1b]", ":3:51: defaults.launch.zones[1]: us-east-1b is not a zone"),
        ("user: admin", "zones: [us-east-1a]", "zones[0]: us-east-1a is not a zone of eu-west-1"),
        ("      aws:", "      qemu:", "only machines of aws are launched"),
    ],
)
def test_a_wrong_launch_is_named(tmp_path: Path, old: str, new: str, problem: str) -> None:
    """Before anything could cost money."""
    assert old in AWS
    with pytest.raises(ConfigurationError) as caught:
        load(project(tmp_path, AWS.replace(old, new)), providers=CLOUD)
    assert problem in caught.value.details


def test_windows_in_aws_is_talked_to_as_its_row_says(tmp_path: Path) -> None:
    """By ssh where it says nothing; and Linux has no WinRM."""

    def target(text: str) -> Target:
        return load(project(tmp_path, text), providers=CLOUD).targets["debian_bookworm_aws"]

    windows = AWS.replace("    release: bookworm\n", "    release: bookworm\n    windows: true\n")
    by_winrm = "        communicator: winrm\n        launch: {user"
    assert target(windows).communicator == "ssh"
    assert target(windows.replace("        launch: {user", by_winrm)).communicator == "winrm"
    with pytest.raises(ConfigurationError) as caught:
        target(AWS.replace("        launch: {user", by_winrm))
    assert "winrm is for distros with windows: true" in caught.value.details


def test_what_windows_runs_and_leaves(tmp_path: Path) -> None:
    """cmd would take some signs of a name for something else; an administrator logs in there."""
    text = replaced(
        "    inputs:",
        "    windows_script: make it.bat\n    windows_outputs: [{name: out.zip}]\n    inputs:",
    )
    text = text.replace("recipes:", "  windows_2022: {distribution: windows, release: '2022', "
        "windows: true, providers: {fake: }}\nrecipes:")  # fmt: skip
    (tmp_path / "make it.bat").touch()
    configuration = loaded(tmp_path, text)
    assert configuration.recipes["agent"].windows_outputs == (Output(name="out.zip"),)
    assert configuration.targets["windows_2022_fake"].distro.ssh_user == "Administrator"
    (tmp_path / "make & it.bat").touch()
    (found,) = problems(tmp_path, text.replace("make it", "make & it"))
    assert "recipes.agent.windows_script: 'make & it.bat'" in found
    (found,) = problems(tmp_path, text.replace("    windows_script: make it.bat\n", ""))
    assert "windows_outputs: goes with a windows_script only" in found
