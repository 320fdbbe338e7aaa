"""Tools, classes and response formats, in any form that LangChain knows → JSON Schemas."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel
from pydantic.errors import PydanticUserError
from typing_extensions import is_typeddict

from langchain_starchat.structured_output import is_pydantic
from starchat import (
    InvalidRequestError,
    StarChatError,
    class_schema,
    closed_schema,
    shown,
    untitled_schema,
)
from starchat.openai import read_tools

if TYPE_CHECKING:
    from langchain_core.tools import BaseTool

_NAMES = {"name", "title", "function", "toolSpec"}
_OF_FUNCTIONS = {"function", "parameters", "input_schema", "toolSpec"}


def definitions(tools: Sequence[Any], strict: bool | None = None) -> list[dict[str, Any]]:
    """Return the definitions of tools in any form that LangChain knows, in OpenAI's form.

    References and definitions are kept: where a schema refers to itself, LangChain's own conversion
    leaves a place that takes anything. Raises ConstraintError for types that no grammar can hold.
    """
    return read_tools([_definition(f"tools[{i}]", tool, strict) for i, tool in enumerate(tools)])


def _definition(where: str, tool: Any, strict: bool | None) -> dict[str, Any]:
    if isinstance(tool, dict) and not (
        (tool.get("type") in (None, "function", "object") or "input_schema" in tool)
        and _NAMES & tool.keys()
    ):
        kind = tool.get("type") or next(iter(tool), None)
        problem = (
            f"{shown(kind)} is no function: this process has no tools that a provider's server "
            "runs; pass a function, a tool, a class or the definition of a function"
        )
        if {"properties", "$ref", "$defs"} & tool.keys():
            problem = "this JSON Schema has no title: give it one, which names the tool"
        raise InvalidRequestError.of(where, problem, got=shown(kind))
    try:
        function = _function_of_schema(tool) if isinstance(tool, dict) else _function(tool)
        made = convert_to_openai_tool(tool) if function is None else {}
    except StarChatError:
        raise
    except (
        AttributeError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:  # list[a class], a wrong docstring
        problem = (
            f"{shown(tool)} cannot be read: {error!s:.400}; pass a function, a tool, a class with "
            "fields (of another type: a field of this type), or a dict"
        )
        raise InvalidRequestError.of(where, problem) from error
    if function is None:
        if strict is None or "parameters" not in made.get("function", made):
            return made  # LangChain cannot make strict what has no parameters
        return convert_to_openai_tool(tool, strict=strict)
    if strict is not None:
        function["strict"] = strict
        if strict and "parameters" in function:
            function["parameters"] = closed_schema(function["parameters"])
    return {"type": "function", "function": function}


def _function(tool: Any) -> dict[str, Any] | None:
    """Return the function that a tool or class is; None where LangChain's conversion is whole."""
    from langchain_core.tools import BaseTool, Tool  # imports much
    from langchain_core.tools.base import create_schema_from_function

    model, name, about = tool, "", ""
    if isinstance(tool, BaseTool):
        if isinstance(tool, Tool) and not tool.args_schema:
            return None  # one text
        model, name, about = _arguments(tool), tool.name, tool.description
    elif is_typeddict(tool):
        return _function_of_typed_dict(tool)
    elif callable(tool) and not isinstance(tool, type):
        name = tool.__name__
        model = create_schema_from_function(
            name, tool, filter_args=(), parse_docstring=True, include_injected=False
        )
        about = model.__doc__ or ""
    elif not is_pydantic(tool):
        return None
    schema = described = _schema(model)
    if isinstance(reference := schema.get("$ref"), str):  # a class that holds itself
        described = schema["$defs"][reference.rpartition("/")[2]]
    untitled = untitled_schema({k: v for k, v in schema.items() if k != "description"})
    name = name or described.get("title", model.__name__)
    about = about or described.get("description", "")
    return {"name": name, "description": about, "parameters": untitled}


def _function_of_schema(tool: dict[str, Any]) -> dict[str, Any] | None:
    """Return the function that a JSON Schema with a title is; None for definitions of functions.

    LangChain's conversion leaves out a schema without properties, as one that is a reference.
    """
    if "title" not in tool or {"name", *_OF_FUNCTIONS} & tool.keys():
        return None
    rest = {key: tool[key] for key in tool if key not in ("title", "description")}
    function = {"name": tool["title"], "description": tool.get("description", "")}
    return function | ({"parameters": untitled_schema(rest)} if rest else {})


def _arguments(tool: BaseTool) -> Any:
    """Return the schema of what a model gives to a tool, or its class."""
    try:
        return tool.tool_call_schema
    except ValueError:  # LangChain cannot copy the bounds of a class of pydantic 1
        if is_pydantic(tool.args_schema) and not issubclass(tool.args_schema, BaseModel):
            return tool.args_schema
        raise


def _function_of_typed_dict(typed_dict: type) -> dict[str, Any] | None:
    """Return the function that a TypedDict is, with the descriptions that LangChain reads."""
    made: dict[str, Any] = {"name": typed_dict.__name__, "description": typed_dict.__doc__ or ""}
    with suppress(RecursionError, TypeError):  # of dicts that hold themselves, of NotRequired
        made = convert_to_openai_tool(typed_dict)["function"]
    try:
        schema = class_schema(typed_dict)
    except PydanticUserError as error:  # typing's TypedDict before Python 3.12
        if "parameters" in made:
            return made
        problem = f"{typed_dict.__name__} cannot be read: {error.message}"
        raise InvalidRequestError.of("schema", problem) from error
    schema.pop("description", None)
    for name, argument in made.get("parameters", {}).get("properties", {}).items():
        own = schema.get("properties", {}).get(name)
        if own is not None and "description" in argument:
            own["description"] = argument["description"]
    return {**made, "parameters": untitled_schema(schema)}


def _schema(model: Any) -> dict[str, Any]:
    """Return the schema of a tool's arguments: a dict, or a class of pydantic 1 or 2."""
    model = class_of(model)
    if isinstance(model, dict):
        return model
    if is_pydantic(model) and not issubclass(model, BaseModel):
        schema: dict[str, Any] = model.schema()
        return schema
    return class_schema(model)


def class_of(schema: Any) -> Any:
    """Return the pydantic class that made a schema, or the schema itself where none did.

    LangChain's agents hand on the schema of their response format only, which says less than the
    class that validates the reply. Schemas that are equal allow the same, whichever class is found.
    """
    if not isinstance(schema, dict):
        return schema
    definition = str(schema.get("$ref")).rpartition("/")[2]
    root = schema.get("$defs", {}).get(definition, schema)
    if not isinstance(root, dict) or not isinstance(title := root.get("title"), str):
        return schema
    waiting: list[type[BaseModel]] = [BaseModel]
    while waiting:
        model = waiting.pop()
        waiting += type.__subclasses__(model)
        if title in (model.__name__, model.model_config.get("title")):
            with suppress(Exception):  # a class that is not complete, or has no schema
                if _without_about(model.model_json_schema()) == _without_about(schema):
                    return model
    return schema


def _without_about(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "description"}


def without_response_format(schema: Any) -> Any:
    """Return the JSON Schema in OpenAI's response format or its named part; others as they are.

    >>> without_response_format({"name": "flag", "strict": True, "schema": {"type": "boolean"}})
    {'title': 'flag', 'type': 'boolean'}
    """
    named = schema.get("json_schema", schema) if isinstance(schema, dict) else schema
    if isinstance(named, dict) and isinstance(inner := named.get("schema"), dict):
        return {"title": "answer", **inner} | ({"title": named["name"]} if "name" in named else {})
    return schema


def json_schema(schema: dict[str, Any] | type) -> dict[str, Any]:
    """Return the JSON Schema of a class, or of a dict in any form that LangChain knows.

    Titles are removed, as they only repeat names. Objects get "additionalProperties": false where
    the schema does not say otherwise.

    >>> json_schema({"title": "T", "type": "object", "properties": {"a": {"title": "A"}}})
    {'type': 'object', 'properties': {'a': {}}, 'additionalProperties': False}
    """
    if isinstance(schema, dict):
        is_function = bool(_OF_FUNCTIONS & schema.keys())
        plain = convert_to_json_schema(schema) if is_function else schema
    elif is_pydantic(schema):
        plain = _schema(schema)
    else:
        function = _definition("schema", schema, None)["function"]
        plain = {"description": function["description"], **function["parameters"]}
    try:
        return closed_schema(untitled_schema(plain))
    except RecursionError:
        raise InvalidRequestError.of("schema", "nested too deeply") from None
