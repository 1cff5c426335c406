"""The JSON schema of targets.yaml for editors, made from the same rows that read it.

``python -m build_orchestrator.configuration.schema > docs/reference/targets.schema.json``
"""

from __future__ import annotations

import json
from typing import Any

from build_orchestrator.configuration.rows import (
    SCHEMA,
    Declared,
    Rule,
    Shape,
    TargetsFile,
    declared,
)

_TYPES = {"text": "string", "integer": "integer", "number": "number", "switch": "boolean"}


def json_schema() -> dict[str, Any]:
    """The schema, as JSON Schema draft 2020-12."""
    definitions: dict[str, Any] = {}
    root = _row(TargetsFile, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"targets.yaml, schema {SCHEMA}",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _row(row: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    fields = declared(row)
    required = [name for name, each in fields.items() if each.required]
    schema: dict[str, Any] = {
        "description": (row.__doc__ or "").strip(),
        # A row in which nothing is required may be left empty: `fake:`.
        "type": "object" if required else ["object", "null"],
        "additionalProperties": False,
        "properties": {name: _field(each, definitions) for name, each in fields.items()},
    }
    return schema | ({"required": required} if required else {})


def _field(each: Declared, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = {"description": each.rule.about, **_value(each.shape, each.rule, definitions)}
    if not each.required and each.default not in (None, "", (), {}):
        default = each.default
        schema["default"] = list(default) if isinstance(default, tuple) else default
    return schema


def _value(shape: Shape, rule: Rule, definitions: dict[str, Any]) -> dict[str, Any]:
    if shape.kind == "row":
        assert shape.row is not None
        name = shape.row.__name__.removesuffix("Row")
        if name not in definitions:
            definitions[name] = _row(shape.row, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if shape.kind == "list":
        assert shape.item is not None
        schema: dict[str, Any] = {"type": "array", "items": _value(shape.item, rule, definitions)}
        return schema | ({"minItems": 1} if rule.filled else {})
    if shape.kind == "map":
        assert shape.item is not None
        values = _value(shape.item, rule, definitions)
        schema = {"type": "object", "additionalProperties": values}
        if rule.names:
            schema["propertyNames"] = {"pattern": _whole(rule.names)}
        return schema | ({"minProperties": 1} if rule.filled else {})
    schema = {"type": _TYPES[shape.kind]}
    schema |= {"pattern": _whole(rule.pattern)} if rule.pattern else {}
    schema |= {"enum": list(rule.choices)} if rule.choices else {}
    schema |= {"minLength": 1} if rule.filled else {}
    schema |= {"minimum": rule.minimum} if rule.minimum is not None else {}
    schema |= {"maximum": rule.maximum} if rule.maximum is not None else {}
    return schema


def _whole(pattern: str) -> str:
    return f"^({pattern})$"


def text() -> str:
    """The schema as it is committed."""
    return json.dumps(json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(text())
