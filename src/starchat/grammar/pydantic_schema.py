"""A pydantic class → its JSON Schema, as narrow as what pydantic accepts from JSON.

pydantic's own schemas say less than its types: a Decimal is any string, a range of dates is left
out. class_schema calls it; it refuses what no schema can say. Needs pydantic 2.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from decimal import Decimal
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic.types import EncodedStr, PathType
from pydantic_core import core_schema
from typing_extensions import NotRequired, Required

from ..errors import ConstraintError, shown
from .schema_problems import REFUSED, check_class
from .schemas import DATE_BOUNDS, NUMBER_BOUNDS, Schema, map_schema

_BYTE_SIZE = r"^\s*(\d*\.?\d+)\s*(\w+)?"  # the pattern that pydantic gives, without an end
_OF_TEXT = "x-of-text"
_BOUNDS = ("ge", "gt", "le", "lt")  # in the order of NUMBER_BOUNDS and DATE_BOUNDS
# What pydantic writes into a schema where a bound is of a union or of another type without bounds.
_UNTRANSLATED = dict(zip(_BOUNDS, NUMBER_BOUNDS, strict=True)) | {"multiple_of": "multipleOf"}
_LENGTHS = {"min_length": ("minLength", "minItems"), "max_length": ("maxLength", "maxItems")}
# Rust's \w and \d, which are pydantic's; llguidance's are ASCII, which only matters in negations.
_WORD, _DIGIT = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}", r"\p{Nd}"
_KEYS = {"int": "-?(?:0|[1-9][0-9]{0,14})", "bool": "(?:true|false)"}
_KEYS |= dict.fromkeys(("float", "decimal"), r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?")


def schema_of(cls: Any) -> Schema:
    """Return the schema of a pydantic class, or of any type that pydantic validates.

    Raises ConstraintError, with the place in the schema, for what no grammar can hold.
    """
    name = getattr(cls, "__name__", str(cls))
    try:
        if isinstance(cls, type) and issubclass(cls, BaseModel):
            by_alias = cls.model_config.get("validate_by_alias") is not False
            schema = cls.model_json_schema(by_alias, schema_generator=_Narrow)
        else:
            schema = TypeAdapter(cls).json_schema(schema_generator=_Narrow)
    except PydanticInvalidForJsonSchema as error:
        problem = f"{error.message}: use types that JSON can hold, such as str or a pydantic model"
        raise ConstraintError.of(name, problem) from error
    schema = map_schema(schema, _translated)
    check_class(schema, name)
    return schema


def _refused(problem: str) -> JsonSchemaValue:
    return {REFUSED: problem}


class _Narrow(GenerateJsonSchema):
    """Writes what pydantic's own generator leaves out; formats are those of formats.py."""

    # ---- numbers

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        n_digits, n_places = schema.get("max_digits"), schema.get("decimal_places")
        step, bounds = schema.get("multiple_of"), _given_bounds(schema)
        if (n_digits, n_places, step) == (None, None, None) and not bounds:
            return {"type": "number", "format": "decimal"}
        bounds = {key: Decimal(str(value)) for key, value in bounds.items()}
        n_whole = max([len(str(abs(int(value)))) for value in bounds.values()], default=9)
        if n_places is None:
            n_places = min(6, max(0, 15 - n_whole))
            if n_digits is not None:
                n_places = min(n_places, n_digits // 2)
        n_places = min(n_places, 15)
        most_whole = min(15, n_digits if n_digits is not None else 15) - n_places
        unit = Decimal(1).scaleb(-n_places)
        limit = Decimal(1).scaleb(max(0, most_whole)) - unit
        if most_whole <= 0:  # then pydantic does not take the digit 0 of 0 itself
            bounds["gt"] = max(bounds.get("gt", Decimal(0)), Decimal(0))
        numbers: dict[str, Any] = {"type": "number"}
        low, high = bounds.get("ge", -limit), bounds.get("le", limit)
        numbers |= {"minimum": _number(max(low, -limit)), "maximum": _number(min(high, limit))}
        for key, keyword in (("gt", "exclusiveMinimum"), ("lt", "exclusiveMaximum")):
            if key in bounds:
                numbers[keyword] = _number(bounds[key])
        numbers["multipleOf"] = _number(unit if step is None else Decimal(str(step)))
        if step is not None and Decimal(str(step)) % unit:
            return _refused(f"multiple_of={step} has more than {n_places} decimal places")
        return numbers

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        numbers = super().float_schema(schema)
        allows_infinity = schema.get("allow_inf_nan", self._config.allow_inf_nan)
        return numbers if allows_infinity else {**numbers, "format": "double"}

    def complex_schema(self, schema: core_schema.ComplexSchema) -> JsonSchemaValue:
        return {"type": "string", "format": "complex"}

    def fraction_schema(self, schema: Any) -> JsonSchemaValue:
        fraction = {"type": "string", "format": "fraction"}
        return {"anyOf": [{"type": "number", "format": "double"}, fraction]}

    # ---- dates and times

    def date_schema(self, schema: core_schema.DateSchema) -> JsonSchemaValue:
        text: dict[str, Any] = {"type": "string", "format": _by_now(schema, "date")}
        bounds = _given_bounds(schema)
        if bounds and schema.get("now_op"):
            return _refused("bounds of a date in the past or future")
        for key, keyword in zip(_BOUNDS, DATE_BOUNDS, strict=True):
            if key in bounds:
                text[keyword] = bounds[key].isoformat()
        return text

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        return _with_zone(schema, _by_now(schema, "date-time"))

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        return _with_zone(schema, "time")

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        return _unbounded(schema, {"type": "string", "format": "duration"})

    # ---- strings

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        text = super().str_schema(schema)
        pattern = schema.get("pattern")
        if isinstance(pattern, re.Pattern) and pattern.flags & re.VERBOSE:
            text["pattern"] = f"(?x){pattern.pattern}"
        if "pattern" in text:
            text["pattern"] = _unicode_negations(text["pattern"])
        strips = schema.get("strip_whitespace", self._config.str_strip_whitespace)
        if strips and ("pattern" in text or text.get("minLength")):
            text["allOf"] = [{"pattern": r"^(?:\S(?s:.*\S)?)?$"}]
        return text

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        kind = self._config.val_json_bytes
        if kind == "utf8":
            text = super().bytes_schema(schema)
            # Lengths count bytes: characters of one byte each.
            is_bounded = "minLength" in text or "maxLength" in text
            return {**text, "format": "ascii" if is_bounded else "binary"}
        if schema.get("min_length") or schema.get("max_length") is not None:
            return _refused(f"the length of bytes that are written as {kind}: leave it out")
        return {"type": "string", "format": "hex" if kind == "hex" else "base64url"}

    def url_schema(self, schema: core_schema.UrlSchema) -> JsonSchemaValue:
        return _of_schemes(super().url_schema(schema), schema.get("allowed_schemes"))

    def multi_host_url_schema(self, schema: core_schema.MultiHostUrlSchema) -> JsonSchemaValue:
        return _of_schemes(super().multi_host_url_schema(schema), schema.get("allowed_schemes"))

    def json_schema(self, schema: core_schema.JsonSchema) -> JsonSchemaValue:
        return _refused("Json, which is JSON within a string: declare the type itself, without it")

    def is_subclass_schema(self, schema: core_schema.IsSubclassSchema) -> JsonSchemaValue:
        return _refused("a class as a value: use a Literal of names, and look it up in the tool")

    # ---- collections

    def set_schema(self, schema: core_schema.SetSchema) -> JsonSchemaValue:
        return _folding(super().set_schema(schema))

    def frozenset_schema(self, schema: core_schema.FrozenSetSchema) -> JsonSchemaValue:
        return _folding(super().frozenset_schema(schema))

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        made = super().dict_schema(schema)
        if "patternProperties" in made:
            values = made["patternProperties"]
            made["patternProperties"] = {_unicode_negations(key): values[key] for key in values}
            made["additionalProperties"] = False
            return made
        keys = schema.get("keys_schema")
        while keys and keys["type"] in ("function-after", "function-before", "function-wrap"):
            keys = keys["schema"]
        kind = keys["type"] if keys else "any"
        if kind in ("any", "str"):
            return made
        names = self.generate_inner(keys) if keys else {}
        if kind in _KEYS:
            if any(key in names for key in (*NUMBER_BOUNDS, "multipleOf")):
                return _refused("a bound of the numbers that are keys: leave it out")
            names = {"pattern": f"^{_KEYS[kind]}$"}
        return {**made, "propertyNames": names}

    # ---- unions and functions

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        made = super().tagged_union_schema(schema)
        return {"anyOf": made["oneOf"]} if "oneOf" in made else made

    def function_after_schema(
        self, schema: core_schema.AfterValidatorFunctionSchema
    ) -> JsonSchemaValue:
        made = super().function_after_schema(schema)
        function = schema["function"]["function"]
        owner = getattr(function, "__self__", None)
        if isinstance(owner, EncodedStr):
            return {**made, _OF_TEXT: True}
        if getattr(PathType, getattr(function, "__name__", ""), None) is function:
            return _refused("a path that exists or does not yet: use Path, and look in the tool")
        return made

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        made = super().typed_dict_schema(schema)
        for name, hint in _hints(schema.get("cls")).items():
            if get_origin(hint) in (NotRequired, Required):
                (hint,) = get_args(hint)
            texts = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, str)]
            if texts and name in made.get("properties", {}):
                made["properties"][name].setdefault("description", texts[-1])
        return made

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        function = schema.get("function")  # a mapping, or a class where pydantic calls one
        if isinstance(function, dict):
            function = function.get("function")
        if getattr(function, "__name__", "") == "import_string":
            return _refused("ImportString, which imports a module: use str, and import in the tool")
        return super().generate_inner(schema)

    def chain_schema(self, schema: core_schema.ChainSchema) -> JsonSchemaValue:
        last = schema["steps"][-1]
        if last["type"] == "is-instance" and last["cls"] is Hashable:
            return {"type": ["string", "number", "boolean", "null"]}
        return super().chain_schema(schema)

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        return _reachable(schema, super().model_field_schema(schema))

    def typed_dict_field_schema(self, schema: core_schema.TypedDictField) -> JsonSchemaValue:
        return _reachable(schema, super().typed_dict_field_schema(schema))

    def dataclass_field_schema(self, schema: core_schema.DataclassField) -> JsonSchemaValue:
        return _reachable(schema, super().dataclass_field_schema(schema))


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True) if cls else {}
    except (NameError, TypeError):  # names of another scope, which pydantic found
        return {}


def _number(value: Decimal) -> float:
    return int(value) if value == int(value) else float(value)


def _given_bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in _BOUNDS if schema.get(key) is not None}


def _by_now(schema: Mapping[str, Any], form: str) -> str:
    now = schema.get("now_op")
    return f"{now}-{form}" if now else form


def _with_zone(schema: Mapping[str, Any], form: str) -> JsonSchemaValue:
    zone = schema.get("tz_constraint")
    if isinstance(zone, int):
        return _refused("one offset from UTC: use AwareDatetime or NaiveDatetime")
    return _unbounded(
        schema, {"type": "string", "format": f"local-{form}" if zone == "naive" else form}
    )


def _unbounded(schema: Mapping[str, Any], made: JsonSchemaValue) -> JsonSchemaValue:
    given = [f"{key}={value}" for key, value in _given_bounds(schema).items()]
    problem = f"{', '.join(given)} of a {schema['type']}: check it in a validator of your own"
    return _refused(problem) if given else made


def _of_schemes(made: JsonSchemaValue, schemes: list[str] | None) -> JsonSchemaValue:
    if not schemes:
        return made
    return {**made, "pattern": f"^(?:{'|'.join(map(re.escape, schemes))}):"}


def _folding(made: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of a set, in which pydantic folds equal items: that matters for minima."""
    return made if made.get("minItems", 0) > 1 else {k: made[k] for k in made if k != "uniqueItems"}


def _reachable(schema: Mapping[str, Any], made: JsonSchemaValue) -> JsonSchemaValue:
    """Return the schema of a field, if it has a name of its own in the JSON."""
    alias = schema.get("validation_alias")
    if isinstance(alias, list) and all(
        len(path) > 1 for path in (alias if isinstance(alias[0], list) else [alias])
    ):
        return _refused("AliasPath, a place within another value: use an alias that is a name")
    return made


def _translated(node: Schema) -> Schema:
    """Return a schema without what only pydantic's own generator understands."""
    if node.get("pattern") == _BYTE_SIZE:
        node = {key: value for key, value in node.items() if key != "pattern"}
        return {**node, "format": "byte-size"}
    kept = {key: value for key, value in node.items() if key != _OF_TEXT}
    if kept.get("format") == "path":  # of any string
        del kept["format"]
    if _OF_TEXT in node and str(node.get("format")).startswith("base64"):
        kept["format"] = f"{node['format']}-text"
    if str(node.get("format")).startswith("base64") and node.get("minLength"):
        return _refused("the least length of encoded bytes: leave it out")
    for key, keyword in _UNTRANSLATED.items():
        if key in kept:
            value = kept.pop(key)
            if not isinstance(value, (int, float)):
                return _refused(f"{key}={shown(value)} of a union: bound its members")
            kept[keyword] = value
    for key, keywords in _LENGTHS.items():
        given = [kept.pop(name) for name in (key, *keywords) if name in kept and "anyOf" in kept]
        if given:  # each keyword is for one type of the union's members
            kept |= dict.fromkeys(keywords, given[0])
    if kept.get("format") == "uri" and "maxLength" in kept:
        kept["maxLength"] -= 1  # pydantic writes a path of "/" where there is none
    return kept


def _unicode_negations(pattern: str) -> str:
    r"""Return a pattern that means to llguidance what it means to pydantic.

    >>> _unicode_negations(r"\d\D[^\w-]")
    '\\d\\P{Nd}[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}-]'
    """
    depth, is_negated, written = 0, False, []
    for part in re.findall(r"\\.|\[\^?\]?|\]|[^\\\[\]]+|.", pattern, re.DOTALL):
        if part.startswith("["):
            depth, is_negated = depth + 1, is_negated or part.startswith("[^")
        elif part == "]":
            depth = max(0, depth - 1)
            is_negated = is_negated and depth > 0
        elif part == r"\D" and not is_negated:
            part = r"\P{Nd}"
        elif part == r"\W" and not is_negated:
            part = f"[^{_WORD}]"
        elif part in (r"\d", r"\w") and is_negated:
            part = _DIGIT if part == r"\d" else _WORD
        written.append(part)
    return "".join(written)
