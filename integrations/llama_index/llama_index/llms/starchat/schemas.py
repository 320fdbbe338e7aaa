"""Pydantic's JSON Schemas → those that a grammar can enforce.

Left out is what pydantic writes for readers and does not check in JSON itself, such as the format
"path" or `uniqueItems` of a set; starchat would refuse a schema with a word that it cannot keep.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import BaseModel

_FORMATS = {"date-time", "time", "date", "duration"}
_FORMATS |= {"email", "hostname", "ipv4", "ipv6", "uri", "uuid"}
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_DATA = ("const", "enum", "default", "examples")


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a pydantic model, as a grammar can enforce it."""
    return enforceable(model.model_json_schema())


def enforceable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows what this one does, without words that no grammar keeps."""
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "uniqueItems" or (key == "format" and value not in _FORMATS):
            continue
        if key in _BY_NAME:
            kept[key] = {name: _part(part) for name, part in value.items()}
        else:
            kept[key] = value if key in _DATA else _part(value)
    return kept


def closed(schema: Any) -> Any:
    """Return a schema whose objects hold the listed properties alone, as those of calls do."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    has_list = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    first = {"additionalProperties": False} if has_list else {}
    return first | {key: value if key in _DATA else closed(value) for key, value in schema.items()}


def _part(value: Any) -> Any:
    if isinstance(value, list):
        return [_part(item) for item in value]
    return enforceable(value) if isinstance(value, dict) else value
