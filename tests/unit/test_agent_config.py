"""The packager's settings: every key, both forms, their precedence, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from build_orchestrator.agent.config import KEYS, Config, from_mapping, load, named
from build_orchestrator.agent.errors import Code, PackagerError

ROOT = Path(__file__).parents[2]

YAML = """\
distribution: Ubuntu
release: trusty
version: 4.0.2
milestone: ga
build: "666"
python_path: /usr/bin/python3
interpreter: system
requirements_file: requirements.txt
cloudify_agent_version: master
cloudify_agent_module: https://host.example/agent.zip
core_modules: {cloudify_rest_client: "cloudify-rest-client==4.0", cloudify_common: false}
core_plugins: {cloudify_script_plugin: plugins/script, cloudify_diamond_plugin: exclude}
additional_modules: ["pyyaml==3.10", Jinja2]
additional_plugins: {cloudify_Fabric_plugin: "https://host.example/fabric.zip?a=b"}
output_tar: Ubuntu-trusty-agent.tar.gz
keep_virtualenv: true
"""
INI = """\
; the form of release 5
[system]
distribution = Ubuntu
release = trusty
python_path = /usr/bin/python3
interpreter = system
[install]
requirements_file = requirements.txt
cloudify_agent_version = master
cloudify_agent_module = https://host.example/agent.zip
[core_modules]
cloudify_rest_client = cloudify-rest-client==4.0
cloudify_common = false
[core_plugins]
cloudify_script_plugin = plugins/script
cloudify_diamond_plugin = exclude
[additional_modules]
pyyaml==3.10
Jinja2
[additional_plugins]
cloudify_Fabric_plugin = https://host.example/fabric.zip?a=b
[output]
tar = Ubuntu-trusty-agent.tar.gz
keep_virtualenv = true
version = 4.0.2
milestone = ga
build = 666
"""


def read(folder: Path, text: str, name: str = "packager.yaml") -> Config:
    (folder / name).write_text(text)
    return load(folder / name)


def refused(folder: Path, text: str, name: str = "packager.yaml") -> PackagerError:
    with pytest.raises(PackagerError) as raised:
        read(folder, text, name)
    return raised.value


def test_both_forms_have_every_key(tmp_path: Path) -> None:
    """YAML and INI mean the same; requirements keep their == and names their case."""
    config = read(tmp_path, YAML)

    assert read(tmp_path, INI, "config.ini") == config
    assert not [key for key in KEYS if getattr(config, key) == getattr(Config(), key)]
    assert config.additional_modules == ("pyyaml==3.10", "Jinja2")
    assert "cloudify_Fabric_plugin" in config.additional_plugins


def test_an_ini_may_be_written_with_colons(tmp_path: Path) -> None:
    """As configparser reads it: the first of either sign counts, since an address holds both."""
    text = "[additional_plugins]\nx: https://h.example/?a=b\ny = https://h.example\n"

    config = read(tmp_path, f"{text}[output]\nversion: 1\n", "config.ini")

    assert config.additional_plugins == {"x": "https://h.example/?a=b", "y": "https://h.example"}
    assert config.version == "1"


def test_the_shipped_packager_yaml_is_valid() -> None:
    """And it asks for cloudify-common, exactly."""
    config = load(ROOT / "packager.yaml")

    assert config.core_modules == {"cloudify_common": "cloudify-common==7.0.5"}


def test_nothing_given_is_the_default(tmp_path: Path) -> None:
    """An empty value counts as not given; an INI without requirements_file has none."""
    config = read(tmp_path, "release:\nadditional_modules:\n")

    assert config == Config()
    assert read(tmp_path, "[install]\n", "config.ini").requirements_file == ""
    assert config.interpreter == "bundled"


def test_what_the_file_says_beats_the_environment() -> None:
    """VERSION, PRERELEASE and BUILD stand in for keys that are not given."""
    environ = {"VERSION": "1", "PRERELEASE": "2", "BUILD": "3"}

    assert named(Config(milestone="m4"), environ) == Config(version="1", milestone="m4", build="3")


def test_everything_wrong_is_named_at_once(tmp_path: Path) -> None:
    """Unknown keys with the nearest name, wrong kinds and repeated keys, each with its place."""
    text = 'core_module: {}\nrelease: 22.10\nkeep_virtualenv: "no"\nbuild: "1"\nbuild: "2"\n'
    text += "additional_modules: {}\ninterpreter: own\ncore_plugins:\n"
    text += "  cloudify_scirpt_plugin: false\n  cloudify_diamond_plugin: 1\n"
    text += "core_modules: {cloudify_fabric: x, cloudify_common: exclude}\n"

    error = refused(tmp_path, text)

    assert error.code == Code.INVALID_YAML_FILE
    assert "nothing was built" in error.brief
    file = str(tmp_path / "packager.yaml")
    lines = [line.removeprefix(file + ":") for line in error.details.splitlines()]
    assert lines == [
        "1:1: core_module: unknown key, did you mean core_modules?",
        '2:1: release: a string is needed; write it in quotes: "22.1"',
        "3:1: keep_virtualenv: true or false is needed",
        "5:1: build: is there twice, first in line 4",
        "6:1: additional_modules: a list of requirements, URLs or paths is needed",
        "7:1: interpreter: is bundled or system, not 'own'",
        "8:1: core_plugins: a mapping of names to requirements, URLs or paths is needed",
        (
            "11:16: core_modules.cloudify_fabric: unknown, did you mean cloudify_common? "
            "Others belong into additional_modules"
        ),
        "11:36: core_modules.cloudify_common: only a core plugin can be excluded",
    ]


def test_a_core_plugin_that_is_none_is_not_ignored(tmp_path: Path) -> None:
    """A misspelt name with `false` would otherwise do nothing, without a word."""
    error = refused(tmp_path, "core_plugins:\n  cloudify_scirpt_plugin: exclude\n")

    assert "2:3: core_plugins.cloudify_scirpt_plugin" in error.details
    assert "did you mean cloudify_script_plugin?" in error.details


def test_everything_wrong_in_an_ini_is_named_at_once(tmp_path: Path) -> None:
    """With the same words."""
    text = "early = 1\n[instal]\n[install]\ncloudify_agent_verison = 1\nrequirements_file\n"
    text += "[output]\ntar = a\noutput_tar = b\nkeep_virtualenv = perhaps\n"

    lines = refused(tmp_path, text, "config.ini").details.splitlines()

    assert [line.rpartition("config.ini:")[2] for line in lines] == [
        "1:1: early = 1: stands before any [section]",
        "2:1: [instal]: unknown section, did you mean install?",
        "4:1: [install] cloudify_agent_verison: unknown key, did you mean cloudify_agent_version?",
        "5:1: [install] requirements_file: expected KEY = VALUE",
        "8:1: output_tar: is there twice, first in line 7",
        "9:1: keep_virtualenv: true or false is needed",
    ]


@pytest.mark.parametrize("text", ["", "- a\n", "a: [\n", "\x00", "!!python/object:os.x {}\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing, a list, broken YAML and objects."""
    assert refused(tmp_path, text).code == Code.INVALID_YAML_FILE


def test_broken_yaml_is_told_with_its_place(tmp_path: Path) -> None:
    """In the file that was named, as every other mistake."""
    error = refused(tmp_path, "release: x\n\tversion: y\n")

    place = f"{tmp_path / 'packager.yaml'}:2:1"
    assert error.details == f"{place}: found character '\\t' that cannot start any token"


def test_a_file_that_is_not_there_has_a_number_of_its_own(tmp_path: Path) -> None:
    """And so has one that is no text."""
    with pytest.raises(PackagerError, match="cannot be read") as raised:
        load(tmp_path / "none.yaml")
    assert raised.value.code == Code.COULD_NOT_ACCESS_CONFIG_FILE
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(PackagerError, match="UTF-8"):
        load(tmp_path / "binary.yaml")


@pytest.mark.parametrize("values", [{"relase": "x"}, {"release": 9}, {"core_modules": "x"}])
def test_a_dict_is_checked_like_a_file(values: dict[str, Any]) -> None:
    """create(config=...) takes no unknown key either."""
    with pytest.raises(PackagerError, match="1 problem in config"):
        from_mapping(values)
