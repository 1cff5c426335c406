"""How the rows of targets.yaml declare their fields: what each is for, and what may stand there."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What may stand in a field, in its list's items, or in its mapping's values."""

    about: str
    """One sentence for people."""
    pattern: str = ""
    """A regular expression that the whole text must match."""
    wanted: str = ""
    """The pattern in words."""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    names: str = ""
    """For a mapping: a regular expression that each of its names must match."""
    names_wanted: str = ""
    filled: bool = False
    """An empty list, mapping or text is wrong."""
    without: str = ""
    """For the docs: what holds when the field is left out."""


@dataclass(frozen=True)
class Shape:
    """The type of a field, as reading and the schema need it."""

    kind: str
    """``text``, ``integer``, ``number``, ``switch``, ``list``, ``map`` or ``row``."""
    item: Shape | None = None
    """Of a list's items or a mapping's values."""
    row: type[Any] | None = None


@dataclass(frozen=True)
class Declared:
    """One field of a row."""

    name: str
    shape: Shape
    rule: Rule
    required: bool
    default: Any


def entry(about: str, *, default: Any = dataclasses.MISSING, **rule: Any) -> Any:
    """Declare a field of a row; without a default it is required."""
    metadata = {"rule": Rule(about=about, **rule)}
    if default is dataclasses.MISSING:
        return field(metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def declared(row: type[Any]) -> Mapping[str, Declared]:
    """The fields of a row by name, in the order of their declaration."""
    if row not in _DECLARED:
        hints = typing.get_type_hints(row)
        fields = dataclasses.fields(row)
        _DECLARED[row] = {each.name: _declared(each, hints[each.name]) for each in fields}
    return _DECLARED[row]


_DECLARED: dict[type[Any], Mapping[str, Declared]] = {}


def _declared(each: dataclasses.Field[Any], hint: Any) -> Declared:
    has_factory = each.default_factory is not dataclasses.MISSING
    return Declared(
        name=each.name,
        shape=_shape(hint),
        rule=each.metadata["rule"],
        required=each.default is dataclasses.MISSING and not has_factory,
        default={} if has_factory else each.default,
    )


_SCALARS = {
    str: Shape("text"),
    int: Shape("integer"),
    float: Shape("number"),
    bool: Shape("switch"),
}


def _shape(hint: Any) -> Shape:
    if hint in _SCALARS:
        return _SCALARS[hint]
    arguments = typing.get_args(hint)
    if type(None) in arguments:  # Optional: a field that may be left out.
        return _shape(next(each for each in arguments if each is not type(None)))
    if typing.get_origin(hint) is tuple:
        return Shape("list", item=_shape(arguments[0]))
    if typing.get_origin(hint) is Mapping:
        return Shape("map", item=_shape(arguments[1]))
    return Shape("row", row=hint)
