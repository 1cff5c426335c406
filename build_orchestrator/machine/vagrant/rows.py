"""What ``vagrant --machine-readable`` says: rows of ``time,target,kind,data...``.

Real output is not as regular as that: warnings of Ruby and of plugins stand between the rows, rows
of several machines come in any order, an error has more fields than a state, and whatever text may
hold (commas, newlines) is escaped. What is no row is a line for people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ROW = re.compile(
    r"\d{9,12},(?P<target>[^,]*),(?P<kind>[A-Za-z][A-Za-z0-9_-]*)(,(?P<data>.*))?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of Vagrant's."""

    target: str
    """The machine, or nothing."""
    kind: str
    """Such as ``state``; ``text`` for a line that is no row."""
    data: tuple[str, ...]

    @property
    def text(self) -> str:
        """What a person reads in it; empty for what only programs need."""
        if self.kind == "ui":
            return self.data[-1] if len(self.data) > 1 else ""
        return ": ".join(self.data) if self.kind in ("text", "error-exit") else ""


def row(line: str) -> Row:
    """One line of output."""
    found = ROW.fullmatch(line)
    if found is None:
        return Row("", "text", (line,))
    data = (found["data"] or "").split(",") if found["data"] is not None else []
    return Row(found["target"], found["kind"], tuple(_unescaped(each) for each in data))


def _unescaped(text: str) -> str:
    return text.replace("%!(VAGRANT_COMMA)", ",").replace("\\n", "\n").replace("\\r", "")


def states(rows: Iterable[Row]) -> dict[str, str]:
    """The state of each machine, by name, as Vagrant's provider calls it."""
    return {each.target: each.data[0] for each in rows if _is_state(each)}


def providers(rows: Iterable[Row]) -> dict[str, str]:
    """The provider of each machine, by name."""
    return {
        each.target: each.data[0]
        for each in rows
        if each.kind == "provider-name" and each.target and each.data
    }


def _is_state(each: Row) -> bool:
    return each.kind == "state" and bool(each.target) and bool(each.data)


def errors(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    """The class and the message of each error that Vagrant ended with."""
    for each in rows:
        if each.kind == "error-exit" and each.data:
            yield each.data[0], ",".join(each.data[1:]).strip()
