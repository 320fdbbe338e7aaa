"""Schemas of pydantic's types: pydantic accepts whatever they allow, or a type is refused."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import fractions
import ipaddress
import json
import pathlib
import re
import uuid
import zoneinfo
from collections.abc import Callable, Hashable
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import pytest
from typing_extensions import NotRequired, TypedDict

from starchat import ConstraintError, class_schema, closed_schema
from starchat.grammar.constraint import json_text
from starchat.grammar.schema_problems import problem_in

pydantic = pytest.importorskip("pydantic", minversion="2.8")
grammars = pytest.importorskip("support.grammars", reason="pip install llguidance")

from pydantic import (  # noqa: E402
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    StringConstraints,
    Tag,
    TypeAdapter,
)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: int
    y: float


class Tree(BaseModel):
    """A tree."""

    name: Annotated[str, Field(max_length=4)]
    kids: Annotated[list[Tree], Field(max_length=2)] = []


class Left(BaseModel):
    right: Right | None
    at: Decimal


class Right(BaseModel):
    left: Left | None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: pydantic.PositiveInt


class Dog(BaseModel):
    kind: Literal["dog"]
    born: pydantic.PastDate


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T = Field(validation_alias="inside")
    more: list[T] = Field(default=[], validation_alias=AliasChoices("others", AliasPath("x", 0)))


class Numbers(RootModel[dict[int, set[Color]]]):
    pass


class Info(TypedDict):
    name: Annotated[str, ..., "its name"]
    below: NotRequired[Info]


class InHex(BaseModel):
    model_config = ConfigDict(val_json_bytes="hex")
    data: bytes


class InBase64(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64", ser_json_timedelta="float")
    data: bytes
    time: dt.timedelta


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    text: Annotated[str, Field(min_length=2)]


class ByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    text: str = Field(alias="t")


def field(kind: Any, **options: Any) -> Any:
    return Annotated[kind, Field(**options)]


HELD = [
    Decimal,
    field(Decimal, max_digits=5, decimal_places=2, gt=0, multiple_of=Decimal("0.5")),
    field(Decimal, max_digits=3),
    field(Decimal, max_digits=2, decimal_places=2),
    field(Decimal, decimal_places=2, ge=0),
    field(Decimal, gt=0, lt=1),
    field(Decimal, le=10**12),
    field(Decimal, decimal_places=0),
    fractions.Fraction,
    complex,
    pydantic.FiniteFloat,
    field(float, multiple_of=0.1),
    field(float, gt=0, lt=0.5),
    field(int, multiple_of=7, gt=20, lt=90),
    field(int | float, gt=3, lt=5),
    pydantic.ByteSize,
    Level,
    dt.timedelta,
    dt.datetime,
    pydantic.AwareDatetime,
    pydantic.NaiveDatetime,
    pydantic.PastDatetime,
    pydantic.FutureDatetime,
    dt.date,
    pydantic.PastDate,
    pydantic.FutureDate,
    field(dt.date, gt=dt.date(2020, 2, 27), le=dt.date(2020, 3, 2)),
    field(dt.date | None, lt=dt.date(2020, 1, 1)),
    dt.time,
    zoneinfo.ZoneInfo,
    pydantic.AnyUrl,
    pydantic.HttpUrl,
    field(pydantic.HttpUrl, max_length=24),
    pydantic.FileUrl,
    pydantic.FtpUrl,
    pydantic.WebsocketUrl,
    pydantic.PostgresDsn,
    pydantic.RedisDsn,
    pydantic.MongoDsn,
    pydantic.KafkaDsn,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    pydantic.IPvAnyAddress,
    pydantic.IPvAnyNetwork,
    pydantic.IPvAnyInterface,
    uuid.UUID,
    pydantic.UUID1,
    pydantic.UUID4,
    bytes,
    field(bytes, min_length=2, max_length=3),
    InHex,
    InBase64,
    pydantic.Base64Bytes,
    pydantic.Base64Str,
    pydantic.Base64UrlBytes,
    pydantic.Base64UrlStr,
    pydantic.SecretStr,
    pydantic.SecretBytes,
    pathlib.Path,
    Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, to_upper=True)],
    Stripped,
    ByName,
    field(str, pattern=r"^\D\W[^\d][^\w]x$"),
    field(str, pattern=re.compile(r"^ a [a-z] $", re.VERBOSE)),
    field(str, pattern=r"b", max_length=3),
    field(str | list[int], min_length=2, max_length=3),
    set[int],
    field(set[int], min_length=1),
    field(frozenset[Color], min_length=2),
    field(set[Literal["a", "b", "c", "d"]], min_length=2, max_length=3),
    dict[Color, int],
    dict[Literal["x", 1], bool],
    dict[int, str],
    dict[bool, int],
    dict[float, int],
    dict[uuid.UUID, int],
    dict[dt.date, int],
    dict[ipaddress.IPv4Address, int],
    dict[field(str, pattern="^a+$"), int],
    dict[field(str, min_length=2, max_length=3), int],
    field(dict[str, int], min_length=1, max_length=2),
    collections.Counter[str],
    collections.deque[int],
    tuple[int, str],
    tuple[bool, ...],
    Point,
    Hashable,
    Literal["a", 1, None, True],
    Tree,
    Left,
    field(Cat | Dog, discriminator="kind"),
    Annotated[
        Annotated[int, Tag("whole")] | Annotated[float, Tag("any")],
        Discriminator(lambda value: "whole" if isinstance(value, int) else "any"),
    ],
    Box[Decimal],
    Numbers,
    Info,
]


@pytest.mark.parametrize("kind", HELD, ids=lambda kind: str(kind).replace(" ", "")[-60:])
def test_pydantic_accepts_whatever_its_schema_allows(kind: Any) -> None:
    lark = f"start: %json {json_text(closed_schema(class_schema(kind)))}"
    adapter = TypeAdapter(kind)
    for seed in range(6):
        text = grammars.random_text(lark, seed, soft_limit=30)
        adapter.validate_json(text)
        if kind not in (InHex, InBase64):  # only JSON has bytes of another form
            adapter.validate_python(json.loads(text))  # as arguments of calls are validated


class Late(BaseModel):
    due: Annotated[dt.timedelta, Field(ge=dt.timedelta(days=1))]


class Nested(BaseModel):
    late: list[Late]


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Nested, r"Nested: at #/\$defs/Late/properties/due: ge=1 day.* of a timedelta: check it"),
        (field(dt.datetime, lt=dt.datetime(2020, 1, 1)), "at #: lt=2020.* of a datetime: check"),
        (field(dt.time, gt=dt.time(8)), "at #: gt=08:00:00 of a time: check"),
        (field(pydantic.PastDate, gt=dt.date(2020, 1, 1)), "at #: bounds of a date in the past"),
        (pydantic.Json[int], "at #: Json, which is JSON within a string: declare the type"),
        (pydantic.FilePath, "at #: a path that exists or does not yet: use Path"),
        (pydantic.NewPath, "at #: a path that exists or does not yet: use Path"),
        (type[int], "at #: a class as a value: use a Literal of names"),
        (pydantic.ImportString, "at #: ImportString, which imports a module: use str"),
        (dict[field(int, gt=0), int], "at #: a bound of the numbers that are keys: leave it out"),
        (Callable[[], int], "Cannot generate a JsonSchema .*: use types that JSON can hold"),
        (
            pydantic.create_model("M", a=(int, Field(validation_alias=AliasPath("x", 0)))),
            "M: at #/properties/a: AliasPath, a place within another value: use an alias",
        ),
        (
            pydantic.create_model(
                "M", __config__=ConfigDict(val_json_bytes="hex"), a=(bytes, Field(max_length=3))
            ),
            "M: at #/properties/a: the length of bytes that are written as hex: leave it out",
        ),
        (
            field(Decimal, decimal_places=1, multiple_of=Decimal("0.25")),
            "at #: multiple_of=0.25 has more than 1 decimal places",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_schema_can_say_is_refused_with_its_place(kind: Any, problem: str) -> None:
    with pytest.raises(ConstraintError, match=problem):
        class_schema(kind)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (field(set[int], min_length=2), 'Unimplemented keys: ["uniqueItems"] at #'),
        (re.Pattern, "Unknown format: regex at #"),
        (field(str, json_schema_extra={"format": "currency"}), "Unknown format: currency at #"),
    ],
    ids=["set", "pattern", "extra"],
)
def test_what_no_grammar_can_hold_is_named_when_it_is_asked_for(kind: Any, problem: str) -> None:
    assert (problem_in(json.loads(json_text(class_schema(kind)))) or "").startswith(problem)


def test_schemas_stay_short() -> None:
    assert class_schema(Cat) == Cat.model_json_schema()
    assert class_schema(Tree) == Tree.model_json_schema()
    assert class_schema(pydantic.FutureDate) == {"type": "string", "format": "future-date"}
    assert class_schema(Info)["$defs"]["Info"]["properties"]["name"]["description"] == "its name"
