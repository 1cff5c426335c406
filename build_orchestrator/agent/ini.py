"""The INI form of the packager's settings, as release 5 of the original had it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from build_orchestrator.agent.config import Mark
from build_orchestrator.agent.findings import Findings, did_you_mean

if TYPE_CHECKING:
    from build_orchestrator.agent.config import Marks

SYSTEM = ("distribution", "release", "python_path", "interpreter")
INSTALL = ("requirements_file", "cloudify_agent_version", "cloudify_agent_module")
OUTPUT = {
    "tar": "output_tar",
    "output_tar": "output_tar",  # as the original's own example had it, which ignored it
    "keep_virtualenv": "keep_virtualenv",
    "version": "version",
    "milestone": "milestone",
    "build": "build",
}
NAMED = ("core_modules", "core_plugins", "additional_plugins")
LISTED = ("additional_modules",)
SECTIONS: dict[str, dict[str, str]] = {
    "system": {name: name for name in SYSTEM},
    "install": {name: name for name in INSTALL},
    "output": OUTPUT,
}
TRUTH = {"true": True, "yes": True, "on": True, "1": True}
TRUTH.update({"false": False, "no": False, "off": False, "0": False})


def read_ini(text: str, findings: Findings) -> tuple[dict[str, Any], Marks]:
    """The same values and places that the YAML form has.

    Read here line by line: configparser would cut a requirement such as ``pyyaml==6.0`` at its
    first ``=``, turn names into lower case, and forget where each stood.
    """
    values: dict[str, Any] = {}
    marks: dict[tuple[str, ...], Mark] = {}
    section = ""
    every = (*SECTIONS, *NAMED, *LISTED)
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        mark = Mark(number, len(raw) - len(raw.lstrip()) + 1)
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip()
            if section not in every:
                findings.add(
                    *mark, f"[{section}]", f"unknown section{did_you_mean(section, every)}"
                )
        elif not section:
            findings.add(*mark, line, "stands before any [section]")
        elif section in LISTED:
            values.setdefault(section, []).append(line)
            marks.setdefault((section,), mark)
        elif section in every:
            _take(section, line, mark, values, marks, findings)
    return values, marks


def _take(
    section: str,
    line: str,
    mark: Mark,
    values: dict[str, Any],
    marks: dict[tuple[str, ...], Mark],
    findings: Findings,
) -> None:
    """One ``key = value`` of a section."""
    # Either sign, whichever is first, as configparser has it: an address holds both.
    cut = re.match("([^=:]*)[=:](.*)", line)
    key, value = (part.strip() for part in (cut.groups() if cut else (line, "")))
    if not cut:
        findings.add(*mark, f"[{section}] {key}", "expected KEY = VALUE")
        return
    if section in NAMED:
        place: tuple[str, ...] = (section, key)
        into: dict[str, Any] = values.setdefault(section, {})
    else:
        names = SECTIONS[section]
        if key not in names:
            findings.add(*mark, f"[{section}] {key}", f"unknown key{did_you_mean(key, names)}")
            return
        key = names[key]
        place, into = (key,), values
    if place in marks:
        first = marks[place].line
        findings.add(*mark, ".".join(place), f"is there twice, first in line {first}")
        return
    marks[place] = mark
    boolean = section in NAMED or key == "keep_virtualenv"
    truth = TRUTH.get(value.lower()) if boolean else None
    into[key] = value if truth is None or (section in NAMED and truth) else truth
