"""targets.yaml as text -> rows, strictly: every problem is noted and reading goes on.

YAML guesses types: ``22.10`` becomes a number, ``no`` becomes false, a key given twice loses its
first value. So the tree of nodes is read, where text and mark are still known, and never the
values that YAML makes of it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

import yaml

from build_orchestrator.configuration.findings import Findings, Mark, Place, did_you_mean
from build_orchestrator.configuration.rows import Declared, Rule, Shape, TargetsFile, declared

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_EMPTY: dict[str, Any] = {
    "text": "",
    "integer": 0,
    "number": 0.0,
    "switch": False,
    "list": (),
    "map": {},
}
DEEPEST = 100
"""Levels of lists and mappings; a file that means something has about eight."""

LONGEST = 15
"""Digits of a whole number: what a float still holds exactly."""

_TRUE = frozenset({"true", "yes", "on"})
_FALSE = frozenset({"false", "no", "off"})
_WHOLE = re.compile("[-+]?(0|[1-9][0-9]*)")

Entry = tuple[yaml.ScalarNode, yaml.Node]
File = TypeVar("File")


def read(content: bytes, findings: Findings) -> TargetsFile | None:
    """Read targets.yaml; see ``read_as``."""
    return read_as(TargetsFile, content, findings, page="docs/reference/targets-yaml.md")


def read_as(row: type[File], content: bytes, findings: Findings, *, page: str = "") -> File | None:
    """Read a file's rows; what is wrong goes to the findings, and an empty value to the row.

    Args:
        row: the shape of the whole file.
        page: where that shape is explained.

    Returns None where there is nothing to go on with.
    """
    text = _decode(content, findings)
    root = None if text is None else _compose(text, findings, page)
    if root is None:
        return None
    found: File = _Reader(findings).value(root, Shape("row", row=row), None, ())
    return found


def _decode(content: bytes, findings: Findings) -> str | None:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()  # Without the byte order mark.
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        byte = error.object[error.start]
        findings.add((), f"byte {byte:#04x} is not UTF-8", (line, column))
        return None


def _compose(text: str, findings: Findings, page: str) -> yaml.Node | None:
    try:
        if _too_deep(text):
            findings.add((), "not readable: nested too deeply")
            return None
        root: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.context, error.problem) if part)
        findings.add((), f"not YAML: {words}", (mark.line + 1, mark.column + 1) if mark else None)
        return None
    except yaml.YAMLError as error:  # A character that YAML forbids: no mark, one line is enough.
        findings.add((), f"not YAML: {str(error).splitlines()[0]}")
        return None
    except RecursionError:
        findings.add((), "not readable: nested too deeply")
        return None
    if root is None:
        findings.add((), "is empty" + (f"; see {page}" if page else ""))
    return root


def _too_deep(text: str) -> bool:
    """Composing calls itself for each level, and the C library dies of too many of them."""
    if sum(text.count(mark) for mark in "[{-?:") <= DEEPEST:
        return False
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST:
            return True
    return False


class _Reader:
    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._splits: dict[int, tuple[list[Entry], list[Entry]]] = {}
        """What ``_split`` has found for a node: merges of merges would else grow without end."""

    def value(self, node: yaml.Node, shape: Shape, rule: Rule | None, place: Place) -> Any:
        """Read one value; a wrong one becomes the empty value of its kind."""
        self._findings.locate(place, _mark(node))
        if shape.kind == "row":
            return self._row(node, shape, place)
        assert rule is not None, "every field has a rule"
        problem, value = "", _EMPTY[shape.kind]
        if shape.kind == "list":
            if isinstance(node, yaml.SequenceNode):
                value = self._list(node, shape, rule, place)
            else:
                problem = f"wants a list, not {_describe(node)}"
        elif shape.kind == "map":
            if isinstance(node, yaml.MappingNode):
                value = self._map(node, shape, rule, place)
            else:
                problem = f"wants a mapping of names, not {_describe(node)}"
        else:
            problem, value = _scalar(node, shape.kind, value)
            problem = problem or _broken_rule(value, rule)
        if not problem and rule.filled and not value:
            problem = "must not be empty"
        if problem:
            self._findings.add(place, problem, _mark(node))
        return value

    def _list(self, node: yaml.SequenceNode, shape: Shape, rule: Rule, place: Place) -> Any:
        assert shape.item is not None
        rule = _each(rule)
        values: list[Any] = []
        for position, item in enumerate(node.value):
            value = self.value(item, shape.item, rule, (*place, position))
            if value and value in values and shape.item.kind == "text":
                self._findings.add((*place, position), f"{value} is listed twice", _mark(item))
            values.append(value)
        return tuple(values)

    def _map(self, node: yaml.MappingNode, shape: Shape, rule: Rule, place: Place) -> Any:
        assert shape.item is not None
        values: dict[str, Any] = {}
        for key, item, name, first in self._entries(node, place, any_case=shape.item.kind == "row"):
            if rule.names and not re.fullmatch(rule.names, name):
                self._findings.add(
                    (*place, name), f"is not a name here: {rule.names_wanted}", _mark(key)
                )
            value = self.value(item, shape.item, _each(rule), (*place, name))
            if first:
                values[name] = value
        return values

    def _row(self, node: yaml.Node, shape: Shape, place: Place) -> Any:
        assert shape.row is not None
        fields = declared(shape.row)
        given: dict[str, Any] = {}
        if isinstance(node, yaml.MappingNode):
            for key, item, name, first in self._entries(node, place, any_case=False):
                if name not in fields:
                    self._findings.add(
                        (*place, name), f"unknown key{did_you_mean(name, fields)}", _mark(key)
                    )
                    continue
                each = fields[name]
                value = self.value(item, each.shape, each.rule, (*place, name))
                if first:
                    given[name] = value
            self._note_missing(node, fields, given, place)
        elif not _is_null(node) or any(each.required for each in fields.values()):
            problem = f"wants a mapping of {', '.join(fields)}, not {_describe(node)}"
            self._findings.add(place, problem, _mark(node))
        return shape.row(**{name: given.get(name, _left_out(fields[name])) for name in fields})

    def _note_missing(
        self, node: yaml.Node, fields: Any, given: dict[str, Any], place: Place
    ) -> None:
        for name, each in fields.items():
            if each.required and name not in given:
                self._findings.add((*place, name), f"is missing: {each.rule.about}", _mark(node))

    def _entries(
        self, node: yaml.MappingNode, place: Place, *, any_case: bool
    ) -> list[tuple[yaml.ScalarNode, yaml.Node, str, bool]]:
        """Key, value, name, and whether the name comes for the first time."""
        entries: list[tuple[yaml.ScalarNode, yaml.Node, str, bool]] = []
        names: set[str] = set()
        seen: dict[str, int] = {}
        own, merged = self._split(node, place)
        for key, item in own:
            name = key.value
            same = name.casefold() if any_case else name
            if same in seen:
                message = f"is given twice; the first is on line {seen[same]}"
                self._findings.add((*place, name), message, _mark(key))
            entries.append((key, item, name, name not in names))
            names.add(name)
            seen.setdefault(same, _mark(key)[0])
        for key, item in merged:  # What stands in the row itself wins over what it merges.
            if key.value not in seen:
                entries.append((key, item, key.value, True))
                seen[key.value] = _mark(key)[0]
        return entries

    def _split(
        self, node: yaml.MappingNode, place: Place, inside: tuple[int, ...] = ()
    ) -> tuple[list[Entry], list[Entry]]:
        """The entries of a mapping; and what it merges with ``<<: *anchor``, each key once."""
        if id(node) in self._splits:
            return self._splits[id(node)]
        inside = (*inside, id(node))
        own: list[Entry] = []
        merged: dict[str, Entry] = {}
        for key, item in node.value:
            if key.tag == f"{_TAG}merge":
                sources = item.value if isinstance(item, yaml.SequenceNode) else [item]
                for source in sources:
                    if isinstance(source, yaml.MappingNode) and id(source) not in inside:
                        theirs = self._split(source, place, inside)
                        for entry in (*theirs[0], *theirs[1]):  # The first one wins.
                            merged.setdefault(entry[0].value, entry)
                    else:
                        self._findings.add(place, "<< wants another mapping", _mark(key))
            elif isinstance(key, yaml.ScalarNode):
                own.append((key, item))
            else:
                self._findings.add(place, f"a key cannot be {_describe(key)}", _mark(key))
        self._splits[id(node)] = own, list(merged.values())
        return self._splits[id(node)]


def _each(rule: Rule) -> Rule:
    """A list's or mapping's rule for one of its values."""
    if not rule.filled and not rule.names:
        return rule
    return dataclasses.replace(rule, filled=False, names="", names_wanted="")


def _left_out(each: Declared) -> Any:
    """The value of a field that is not in the file."""
    return _EMPTY[each.shape.kind] if each.required else each.default


def _scalar(node: yaml.Node, kind: str, empty: Any) -> tuple[str, Any]:
    """What is wrong (or nothing), and the value."""
    tag = node.tag.removeprefix(_TAG)
    text = node.value
    if kind == "text":
        if isinstance(node, yaml.ScalarNode) and tag == "str":
            return "", text
        if tag in ("float", "int", "bool", "timestamp"):
            return f'YAML reads this as {_describe(node)}; quote it: "{text}"', empty
        return f"wants text, not {_describe(node)}", empty
    if kind == "switch":
        if tag == "bool" and str(text).casefold() in _TRUE | _FALSE:
            return "", text.casefold() in _TRUE
        return f"wants true or false, not {_describe(node)}", empty
    if kind == "integer":
        if tag == "int" and _WHOLE.fullmatch(text):
            if len(text) > LONGEST:
                return f"a number of {len(text)} digits is too large", empty
            return "", int(text)
        return f"wants a whole number, not {_describe(node)}", empty
    number = _number(text) if tag in ("int", "float") else None
    if number is None:
        return f"wants a number, not {_describe(node)}", empty
    return "", number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # YAML has numbers such as 1:30, 0x10 and .inf, which nobody means here.
        return None


def _broken_rule(value: Any, rule: Rule) -> str:
    """What is wrong with a value of the right kind, or nothing."""
    if isinstance(value, str):
        if "\0" in value:
            return "must not hold a NUL character"
        if rule.choices and value not in rule.choices:
            return f"{value!r} is unknown{did_you_mean(value, rule.choices)}"
        if rule.pattern and not re.fullmatch(rule.pattern, value):
            return f"{value!r} is not {rule.wanted}"
    elif rule.minimum is not None and rule.minimum == rule.maximum != value:
        return f"{value:.15g} is not known here; it must be {rule.minimum:g}"
    elif rule.minimum is not None and value < rule.minimum:
        return f"{value:g} is too small; at least {rule.minimum:g}"
    elif rule.maximum is not None and value > rule.maximum:
        return f"{value:.15g} is too large; at most {rule.maximum:.15g}"
    return ""


def _describe(node: yaml.Node) -> str:
    """What stands there, as a person would call it."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    tag = node.tag.removeprefix(_TAG)
    if tag == "null":
        return "nothing"
    if tag == "bool" and node.value.casefold() in _TRUE | _FALSE:
        return "true" if node.value.casefold() in _TRUE else "false"
    if tag in ("int", "float"):
        number = _number(node.value)
        return f"the number {node.value if number is None else format(number, '.15g')}"
    if tag == "timestamp":
        return "a date"
    return f'the text "{node.value}"' if tag == "str" else f"something tagged {node.tag}"


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == f"{_TAG}null")


def _mark(node: yaml.Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1
