"""What an agent is made of: the keys of packager.yaml, checked, and the same as INI or a dict."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Mapping, NamedTuple

from build_orchestrator.agent.errors import Code, PackagerError
from build_orchestrator.agent.findings import Findings, did_you_mean

EXCLUDE = "exclude"
CORE_MODULES = ("cloudify_common", "cloudify_plugins_common", "cloudify_rest_client")
CORE_PLUGINS = ("cloudify_script_plugin", "cloudify_diamond_plugin")
INTERPRETERS = ("bundled", "system")
NAMING = {"version": "VERSION", "milestone": "PRERELEASE", "build": "BUILD"}
"""Key -> the variable that stands in for it."""


@dataclass(frozen=True)
class Config:
    """The keys; docs/reference/packager-yaml.md says what each means. Empty is not given."""

    distribution: str = ""
    release: str = ""
    version: str = ""
    milestone: str = ""
    build: str = ""
    python_path: str = ""
    interpreter: str = "bundled"
    requirements_file: str = ""
    cloudify_agent_module: str = ""
    cloudify_agent_version: str = ""
    core_modules: Mapping[str, str | bool] = field(default_factory=dict)
    core_plugins: Mapping[str, str | bool] = field(default_factory=dict)
    additional_modules: tuple[str, ...] = ()
    additional_plugins: Mapping[str, str | bool] = field(default_factory=dict)
    output_tar: str = ""
    keep_virtualenv: bool | None = None


KEYS = {item.name: str(item.type) for item in fields(Config)}

NEEDED = {
    "str": 'a string is needed; write it in quotes: "{}"',
    "bool | None": "true or false is needed",
    "tuple[str, ...]": "a list of requirements, URLs or paths is needed",
    "Mapping[str, str | bool]": "a mapping of names to requirements, URLs or paths is needed",
}


class Mark(NamedTuple):
    """A place in a file, 1-based; (0, 0) where there is none."""

    line: int
    column: int


NOWHERE = Mark(0, 0)
Marks = Mapping["tuple[str, ...]", Mark]
"""Path of a key -> where it stands."""


def load(path: Path) -> Config:
    """Read a file: INI where it is called ``.ini`` or ``.cfg``, YAML else.

    Raises:
        PackagerError: it cannot be read, or with every problem in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PackagerError(
            Code.COULD_NOT_ACCESS_CONFIG_FILE,
            f"{path}: cannot be read: {reason}",
            resolution="Name the file that describes the agent with -c FILE.",
        ) from error
    findings = Findings(_called(path))
    if path.suffix in (".ini", ".cfg"):
        from build_orchestrator.agent.ini import read_ini

        values, marks = read_ini(text, findings)
    else:
        values, marks = read_yaml(text, findings)
    return check(values, findings, marks)


def from_mapping(values: Mapping[str, Any]) -> Config:
    """The same of a dict, as ``create(config=...)`` takes it.

    Raises:
        PackagerError: with every problem in it.
    """
    return check(values, Findings("config"), {})


def named(config: Config, environ: Mapping[str, str] = os.environ) -> Config:
    """With version, milestone and build of the environment where the file names none."""
    given: dict[str, Any] = {
        key: environ.get(variable, "")
        for key, variable in NAMING.items()
        if not getattr(config, key)
    }
    return replace(config, **given)


def read_yaml(text: str, findings: Findings) -> tuple[dict[str, Any], Marks]:
    """The values of a YAML mapping, and where each key stands."""
    import yaml

    try:
        root, values = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem, mark = getattr(error, "problem", error), getattr(error, "problem_mark", None)
        place = f"{findings.file}:{mark.line + 1}:{mark.column + 1}" if mark else findings.file
        raise PackagerError(
            Code.INVALID_YAML_FILE,
            f"{findings.file}: is no YAML",
            details=f"{place}: {problem}",
        ) from error
    if not isinstance(values, dict) or root is None:
        raise PackagerError(
            Code.INVALID_YAML_FILE,
            f"{findings.file}: a mapping of keys to values is needed",
            resolution="docs/reference/packager-yaml.md lists the keys.",
        )
    marks: dict[tuple[str, ...], Mark] = {}
    _locate(root, (), marks, findings)
    return {str(key): value for key, value in values.items()}, marks


def _locate(
    node: Any, place: tuple[str, ...], marks: dict[tuple[str, ...], Mark], findings: Findings
) -> None:
    """Note where every key below a node stands, and those that are there twice."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*place, str(key.value))
        mark = Mark(key.start_mark.line + 1, key.start_mark.column + 1)
        if here in marks:
            findings.add(*mark, ".".join(here), f"is there twice, first in line {marks[here].line}")
        else:
            marks[here] = mark
            _locate(value, here, marks, findings)


def check(values: Mapping[str, Any], findings: Findings, marks: Marks) -> Config:
    """The Config of these values.

    Raises:
        PackagerError: with every problem in them.
    """
    good: dict[str, Any] = {}
    for key, value in values.items():
        mark = marks.get((key,), NOWHERE)
        if key not in KEYS:
            findings.add(*mark, key, f"unknown key{did_you_mean(key, KEYS)}")
        elif value is None:
            continue
        elif not _fits(KEYS[key], value):
            findings.add(*mark, key, NEEDED[KEYS[key]].format(value))
        else:
            good[key] = tuple(value) if isinstance(value, list) else value
    config = Config(**good)
    _check_names(config, findings, marks)
    findings.raise_any(Code.INVALID_YAML_FILE)
    return config


def _fits(kind: str, value: Any) -> bool:
    if kind == "str":
        return isinstance(value, str)
    if kind == "bool | None":
        return isinstance(value, bool)
    if kind == "tuple[str, ...]":
        return isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (isinstance(source, str) or source in (False, None))
        for name, source in value.items()
    )


def _check_names(config: Config, findings: Findings, marks: Marks) -> None:
    """Names that would otherwise be ignored without a word, or mean something else."""

    def complain(message: str, *place: str) -> None:
        mark = marks.get(place, marks.get(place[:1], NOWHERE))
        findings.add(*mark, ".".join(place), message)

    if config.interpreter not in INTERPRETERS:
        complain(f"is bundled or system, not {config.interpreter!r}", "interpreter")
    for key, known in (("core_modules", CORE_MODULES), ("core_plugins", CORE_PLUGINS)):
        for name in getattr(config, key):
            if name.replace("-", "_") not in known:
                other = "additional_modules" if key == "core_modules" else "additional_plugins"
                nearest = did_you_mean(name, known)
                complain(f"unknown{nearest} Others belong into {other}", key, name)
    for key in ("core_modules", "additional_plugins"):
        for name, source in getattr(config, key).items():
            if source == EXCLUDE:
                complain("only a core plugin can be excluded", key, name)


def _called(path: Path) -> str:
    """A path as the user would open it from where he is."""
    here = Path.cwd()
    absolute = path.absolute()
    return str(absolute.relative_to(here)) if here in absolute.parents else str(path)
