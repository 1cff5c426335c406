"""The JSON schema and the reference page are made from what reads targets.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from build_orchestrator.configuration import load, reference, schema
from build_orchestrator.configuration.words import OPTIONS
from build_orchestrator.machine import PROVIDERS

ROOT = Path(__file__).parents[2]


def project_file() -> dict[str, Any]:
    text = (ROOT / "targets.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)  # The other takes 50 ms.
    return content


def test_the_committed_schema_is_current() -> None:
    """Regenerate with `python -m build_orchestrator.configuration.schema`."""
    assert (ROOT / "docs/reference/targets.schema.json").read_text() == schema.text()


def test_the_committed_reference_is_current() -> None:
    """Regenerate with `python -m build_orchestrator.configuration.reference`."""
    assert (ROOT / "docs/reference/targets-yaml.md").read_text() == reference.text()


@pytest.mark.parametrize("provider", OPTIONS)
def test_every_option_of_a_provider_is_explained(provider: str) -> None:
    """Nobody could guess it."""
    assert [name for name in OPTIONS[provider] if f"`{name}" not in reference.text()] == []


def test_our_own_file_fits_the_schema() -> None:
    """What editors are told agrees with what is committed."""
    jsonschema.Draft202012Validator.check_schema(schema.json_schema())
    jsonschema.validate(project_file(), schema.json_schema())


def test_our_own_file_loads() -> None:
    """The repository's targets.yaml is valid, with all the files that it names."""
    configuration = load(ROOT, providers=frozenset(PROVIDERS))
    assert {"debian_bullseye_qemu", "debian_bookworm_qemu", "debian_trixie_qemu"} <= set(
        configuration.targets
    )
    legacy = {name for name, distro in configuration.distros.items() if distro.legacy}
    originals = {"debian_jessie", "ubuntu_precise", "ubuntu_trusty", "centos_final", "centos_core"}
    assert legacy == {*originals, "windows_2012"}


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"schema": 2},
        {"distros": {}},
        {"distros": {"Debian": {"distribution": "D", "release": "r", "providers": {"fake": {}}}}},
        {"distros": {"debian": {"distribution": "D", "release": 22.10, "providers": {"x": {}}}}},
        {"defaults": {"size": {"cpus": 0}}},
        {"recipes": {"agent": {"script": "", "outputs": [{"name": "x"}]}}},
    ],
)  # fmt: skip
def test_the_schema_refuses_what_reading_refuses(change: dict[str, Any]) -> None:
    """An editor shows a mistake before the tool does."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(project_file() | change, schema.json_schema())


def test_a_row_that_needs_nothing_may_be_empty() -> None:
    """``fake:`` alone is a target."""
    debian = {"distribution": "D", "release": "r", "providers": {"fake": None}}
    jsonschema.validate(project_file() | {"distros": {"d": debian}}, schema.json_schema())
