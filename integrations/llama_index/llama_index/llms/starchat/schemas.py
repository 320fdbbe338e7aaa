"""Pydantic's JSON Schemas → those that a grammar can enforce.

Left out is what pydantic writes for readers and does not check in JSON itself, such as the format
"path" or `uniqueItems` of a set; starchat would refuse a schema with a word that it cannot keep.
"""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import BaseModel

from starchat import map_schema

_FORMATS = {"date-time", "time", "date", "duration"}
_FORMATS |= {"email", "hostname", "ipv4", "ipv6", "uri", "uuid"}


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a pydantic model, as a grammar can enforce it."""
    return enforceable(model.model_json_schema())


def enforceable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows what this one does, without words that no grammar keeps."""
    return map_schema(schema, _kept)


def _kept(node: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in node.items()
        if key != "uniqueItems" and (key != "format" or value in _FORMATS)
    }
