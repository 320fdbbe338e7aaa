"""The values of `format` in JSON Schemas → patterns of strings, and bounds of numbers.

The patterns allow a part of what a format does: what every usual parser reads, of bounded length,
so that a reply ends. What is past or future is decided at the time of the request.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from functools import cache
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any

# ---- dates and times: days that exist, no leap seconds, at most 6 digits after the second -------

_MONTHS = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
_DAYS = f"(?:{_MONTHS}|02-(?:0[1-9]|1[0-9]|2[0-8]))"
_YEAR = "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = "(?:0[48]|[2468][048]|[13579][26])"
_DATE = f"(?:{_YEAR}-{_DAYS}|(?:[0-9]{{2}}{_LEAP}|{_LEAP}00)-02-29)"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_OFFSET = "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_MINUTES = "[0-9]{1,3}M(?:[0-9]{1,2}S)?"
_PERIOD = f"T(?:[0-9]{{1,3}}H(?:{_MINUTES})?|{_MINUTES}|[0-9]{{1,4}}S)"

# ---- names of hosts, without punycode; addresses of mail in domains that anybody may have --------

_LABEL = "[a-z0-9]{1,30}(?:-[a-z0-9]{1,15}){0,2}"  # at most 63 characters
_DOMAIN = rf"(?:{_LABEL}\.){{1,3}}(?:[a-z]{{2,3}}|info|name|shop|site|tech|store|online|cloud)"
_NAME = rf"(?:{_LABEL}\.){{0,3}}[a-z]{{2,30}}(?:-[a-z0-9]{{1,15}}){{0,2}}"
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_HEXTET = "[0-9a-f]{1,4}"
_IPV6 = (
    f"(?:(?:{_HEXTET}:){{7}}{_HEXTET}|(?:{_HEXTET}:){{1,4}}(?::{_HEXTET}){{1,3}}"
    f"|(?:{_HEXTET}:){{1,7}}:|::(?:{_HEXTET}(?::{_HEXTET}){{0,5}})?)"
)
_EMAIL = rf"[A-Za-z0-9]{{1,20}}(?:[._+-][A-Za-z0-9]{{1,20}}){{0,2}}@{_DOMAIN}"
_HOST = rf"(?:{_NAME}|{_IPV4})(?::(?:[1-9][0-9]{{0,3}}|[1-5][0-9]{{4}}))?"
_USER = "(?:[A-Za-z0-9_]{1,30}(?::[A-Za-z0-9_]{1,30})?@)?"
_CHAR = "(?:[A-Za-z0-9_.~!$&'()*+,;=:@-]|%[0-9A-F]{2})"
_NOT_FILE = "[a-eg-z][a-z0-9]|f[a-hj-z]|fi[a-km-z]|fil[a-df-z]|file[a-z0-9]"
_SCHEME = f"(?:{_NOT_FILE})[a-z0-9]{{0,15}}(?:[+-][a-z0-9]{{1,15}}){{0,2}}"
_PATH = f"(?:/{_CHAR}{{0,40}}){{0,9}}"
_TAIL = rf"{_PATH}(?:\?(?:{_CHAR}|[/?]){{0,120}})?(?:#{_CHAR}{{0,40}})?"
_OPAQUE = rf"mailto:{_EMAIL}|urn:[a-z][a-z0-9]{{1,15}}:[A-Za-z0-9:._-]{{1,99}}|tel:\+?[0-9]{{3,15}}"
_URI = f"(?:{_SCHEME}://{_USER}{_HOST}{_TAIL}|file:///{_CHAR}{{1,40}}{_PATH}|{_OPAQUE})"


def _networks_of_ipv4() -> str:
    """Return the pattern of networks whose host bits are 0, as Python's ipaddress wants them."""
    networks = []
    for n_bits in range(33):
        n_whole, n_more = divmod(n_bits, 8)
        octets = [_OCTET] * n_whole
        if n_more:
            octets.append(f"(?:{'|'.join(map(str, range(0, 256, 2 ** (8 - n_more))))})")
        networks.append(r"\.".join([*octets, *["0"] * (4 - len(octets))]) + f"/{n_bits}")
    return f"(?:{'|'.join(networks)})"


def _networks_of_ipv6() -> str:
    """Return the pattern of networks of 0, 16, 32 … bits, and of single addresses."""
    networks = [f"(?:{_HEXTET}:){{{n}}}:/{n * 16}" for n in range(1, 8)]
    return f"(?:::/0|{_IPV6}/128|{'|'.join(networks)})"


def _base64(ends: str, is_ascii: bool) -> str:
    """Return the pattern of base64 whose alphabet has these two characters last.

    is_ascii: whether every decoded byte is below 128, so that the bytes are UTF-8.
    """
    alphabet = ascii_uppercase + ascii_lowercase + digits + ends
    top_1, top_2, top_3 = (32, 8, 2) if is_ascii else (0, 0, 0)  # where a byte's top bit is

    def without(bits: int) -> str:
        taken = "".join([char for index, char in enumerate(alphabet) if not index & bits])
        return f"[{re.escape(taken)}]"

    first, second, third = without(top_1), without(top_2), without(top_3)
    of_one, of_two = f"{without(15)}==", f"{second}{without(3)}="
    return f"(?:{first}{second}{third}{without(0)}){{0,200}}(?:{first}(?:{of_one}|{of_two}))?"


def _uuid(version: str) -> str:
    of_4 = "[0-9a-f]{4}"
    return f"[0-9a-f]{{8}}-{of_4}-{version}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-{of_4 * 3}"


_ANY_STRING = ("binary", "password")
_PATTERNS = {
    "date": _DATE,
    "date-time": f"{_DATE}T{_TIME}{_OFFSET}",
    "local-date-time": f"{_DATE}T{_TIME}",
    "time": f"{_TIME}{_OFFSET}",
    "local-time": _TIME,
    "duration": f"P(?:[0-9]{{1,4}}W|[0-9]{{1,6}}D(?:{_PERIOD})?|{_PERIOD})",
    "hostname": _NAME,
    "idn-hostname": _NAME,
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "name-email": f"(?:[A-Z][a-z]{{0,20}} ){{1,3}}<{_EMAIL}>",
    "uri": _URI,
    "iri": _URI,
    "uri-reference": f"(?:{_URI}|{_TAIL})",
    "iri-reference": f"(?:{_URI}|{_TAIL})",
    "uri-template": _URI,
    "multi-host-uri": f"{_SCHEME}://{_USER}{_HOST}(?:,{_HOST}){{0,3}}{_TAIL}",
    "json-pointer": "(?:/[A-Za-z0-9_.-]{0,60}){0,12}",
    "relative-json-pointer": "[1-9]?[0-9](?:#|(?:/[A-Za-z0-9_.-]{0,60}){0,12})",
    "uuid": _uuid("[0-9a-f]"),
    **{f"uuid{version}": _uuid(version) for version in "12345678"},
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "ipvanyaddress": f"(?:{_IPV4}|{_IPV6})",
    "ipv4interface": f"{_IPV4}(?:/(?:[12]?[0-9]|3[0-2]))?",
    "ipv6interface": f"{_IPV6}(?:/(?:[1-9]?[0-9]|1[01][0-9]|12[0-8]))?",
    "ipvanyinterface": f"(?:{_IPV4}(?:/(?:[12]?[0-9]|3[0-2]))?|{_IPV6})",
    "ipv4network": _networks_of_ipv4(),
    "ipv6network": _networks_of_ipv6(),
    "ipvanynetwork": f"(?:{_networks_of_ipv4()}|{_networks_of_ipv6()})",
    "byte": _base64("+/", is_ascii=False),
    "base64": _base64("+/", is_ascii=False),
    "base64url": _base64("-_", is_ascii=False),
    "base64-text": _base64("+/", is_ascii=True),
    "base64url-text": _base64("-_", is_ascii=True),
    "hex": "(?:[0-9a-f]{2}){0,200}",
    "ascii": "[ -~]*",
    "byte-size": "[0-9]{1,6}(?:[.][0-9]{1,3})? ?(?:[KMGT]?B|[KMGT]iB)?",
    "fraction": "-?[0-9]{1,9}(?:/[1-9][0-9]{0,8})?",
    "complex": r"-?[0-9]{1,9}(?:\.[0-9]{1,6})?[+-][0-9]{1,9}(?:\.[0-9]{1,6})?j",
    "decimal": r"-?(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?",
}

_FINITE = {"minimum": 1 - 10**15, "maximum": 10**15 - 1}

NUMBERS: dict[str, dict[str, Any]] = {
    **{f"uint{n}": {"minimum": 0, "maximum": 2 ** min(n, 53) - 1} for n in (8, 16, 32, 64)},
    **{
        f"int{n}": {"minimum": 1 - 2 ** min(n - 1, 53), "maximum": 2 ** min(n - 1, 53) - 1}
        for n in (8, 16, 32, 64)
    },
    "uint": {"minimum": 0, "maximum": 2**32 - 1},
    "float": _FINITE,
    "double": _FINITE,
    "decimal": {"minimum": -999999999.999999, "maximum": 999999999.999999, "multipleOf": 1e-6},
}
"""What a format of numbers adds to its schema: bounds that a float of 64 bits holds exactly."""


def patterns_of(name: str) -> list[str] | None:
    """Return patterns, without anchors, that strings of a format match; None for unknown formats.

    >>> patterns_of("password"), patterns_of("colour")
    ([], None)
    """
    if name in _ANY_STRING:
        return []
    if name == "zoneinfo":
        return [_zones()]
    if match := re.fullmatch("(past|future)-(date|date-time)", name):
        # An hour's distance from midnight, and UTC beside the local time: the reply is checked
        # later, perhaps with another clock.
        days = [datetime.now(timezone.utc).date(), datetime.now().date()]
        soon = [(datetime.now(zone) + timedelta(hours=1)).date() for zone in (timezone.utc, None)]
        bounds: tuple[date | None, date | None] = (None, min(days) - timedelta(1))
        if match[1] == "future":
            bounds = (max(soon) + timedelta(1), None)
        form = _DATE if match[2] == "date" else f"{_DATE}T{_TIME}Z"
        return [form, *dates_between(*bounds)]
    pattern = _PATTERNS.get(name)
    return None if pattern is None else [pattern]


def dates_between(least: date | None, most: date | None) -> list[str]:
    """Return patterns that dates from `least` to `most` match, alone or with more behind them.

    >>> [bool(re.fullmatch(p, "2024-03-01")) for p in dates_between(date(2024, 2, 29), None)]
    [True]
    """
    patterns = []
    if least:
        patterns.append(_ordered(least, lambda digit: f"[{digit + 1}-9]" if digit < 9 else ""))
    if most:
        patterns.append(_ordered(most, lambda digit: f"[0-{digit - 1}]" if digit else ""))
    return patterns


def _ordered(day: date, beyond: Callable[[int], str]) -> str:
    """Return the pattern of texts that begin with a day, or with one beyond it."""
    text = day.isoformat()
    others = [
        text[:index] + beyond(int(char)) + re.sub("[0-9]", "[0-9]", text[index + 1 :])
        for index, char in enumerate(text)
        if char != "-" and beyond(int(char))
    ]
    return f"(?:{'|'.join([text, *others])}).*"


@cache
def _zones() -> str:
    return f"(?:{'|'.join(map(re.escape, sorted(zoneinfo.available_timezones())))})"
