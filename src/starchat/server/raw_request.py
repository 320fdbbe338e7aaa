"""What bodies of llama.cpp's and KoboldAI's clients have in common: raw prompts, and many fields.

These clients send whole sets of options, whatever the server has: what does nothing is ignored,
and named in the answer's `warnings` and in the log where it would change the reply elsewhere.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from ..errors import unexpected
from .errors import errors_as
from .fields import either
from .request import current_request
from .service import Prompt, Replies, Service
from .settings import MOST_BIASES, MOST_STOPS

_LONGEST_TEXT = 256  # characters of one whose tokens get a bias
# Bounds of lists, which are checked first: an error for each of 200,000 items takes seconds.
_MOST_TEXTS = 1_024
Texts = Annotated[list[str], Field(max_length=_MOST_TEXTS)]
Stop = Annotated[str | Texts | None, either(f"a text, or a list of at most {_MOST_TEXTS:,}")]
Special = Annotated[bool | Texts | None, either("true, false, or a list of control tokens")]
#: Ids as a client sends them; the service says what is wrong with one.
Ids = Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"type": "integer"}})]
Objects = Annotated[list[Any], WithJsonSchema({"type": "array", "items": {"type": "object"}})]
#: Token id or text → what is added to its logit; or pairs of these.
Bias = Annotated[
    Annotated[dict[str, Any], Field(max_length=MOST_BIASES)]
    | Annotated[list[Any], Field(max_length=MOST_BIASES)]
    | None,
    either(f"an object, or a list of pairs, of at most {MOST_BIASES}"),
]
_Off1 = Annotated[float | None, 1]  # the value that is off, beside no value
_Off0 = Annotated[float | None, 0]
_OffBelow1 = Annotated[float | None, -1, 0]


class SpecialTokens(BaseModel):
    """Which control tokens of a text count."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, protected_namespaces=())

    allow_special: Special = None
    parse_special: Special = None  # llama.cpp's name of it

    @property
    def allowed(self) -> bool | list[str] | None:
        """All, none, or those of a list; None: the frame of the text decides."""
        return self.parse_special if self.allow_special is None else self.allow_special


class RawRequest(SpecialTokens):
    """Samplers that only other engines have, at the value that is off or none."""

    typical: _Off1 = None
    typical_p: _Off1 = None
    tfs: _Off1 = None
    tfs_z: _Off1 = None
    top_a: _Off0 = None
    top_n_sigma: _OffBelow1 = None
    nsigma: _OffBelow1 = None
    mirostat: _Off0 = None
    mirostat_mode: _Off0 = None
    dynatemp_range: _Off0 = None
    smoothing_factor: _Off0 = None
    adaptive_target: _OffBelow1 = None
    dry_multiplier: _Off0 = None
    xtc_probability: _Off0 = None

    def unsupported(self) -> list[str]:
        """Return the names of samplers that are on, and do nothing here.

        >>> RawRequest(tfs=1, mirostat=2).unsupported()
        ['mirostat']
        """
        off = {
            name: [value for value in field.metadata if isinstance(value, int)]
            for name, field in RawRequest.model_fields.items()
        }
        return [
            name
            for name, values in off.items()
            if values and getattr(self, name) not in (None, *values)
        ]


@dataclass
class Asked:
    """The options of a request in starchat's terms, and what its answer warns of."""

    names: Mapping[str, str]  # of options → what the protocol calls them
    options: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    async def stream(self, prompt: Prompt, service: Service) -> Replies:
        """Ask the service; raise what is wrong in the protocol's terms."""
        with errors_as(self.names):
            return await service.stream(prompt, self.options)

    def ignore(self, names: Sequence[str]) -> None:
        """Warn of fields that do nothing, and have them in the request's line of the log."""
        if names:
            log = current_request().log
            log["ignored"] = ",".join(filter(None, (log.get("ignored"), *names)))
            problem = "this engine lacks it, the value is ignored"
            self.warnings += [f"{name}: {problem}" for name in names]

    def set_stop(self, name: str, stop: str | Sequence[str] | None) -> None:
        """Take stop strings; clients send empty ones, one twice, and more than there may be."""
        strings = [stop] if isinstance(stop, str) else stop or []
        different = [text for text in dict.fromkeys(strings) if text]
        if len(different) > MOST_STOPS:
            problem = f"{name}: {len(different)} strings, the first {MOST_STOPS} count"
            self.warnings.append(problem)
        self.options["stop"] = different[:MOST_STOPS]

    def set_seed(self, seed: int | None) -> None:
        """Take a seed; draw one, which the answer can name, where it is absent or negative."""
        self.options["seed"] = secrets.randbits(32) if seed is None or seed < 0 else seed

    def set_top_p(self, top_p: float | None) -> None:
        """Take top_p, which is 0 for the likeliest token alone."""
        if top_p is not None and top_p <= 0:
            self.options["temperature"] = 0.0
        elif top_p is not None:
            self.options["top_p"] = min(top_p, 1.0)


async def read_bias(
    bias: Mapping[str, Any] | Sequence[Any] | None, service: Service
) -> dict[int, float]:
    """Return what is added to which id: of an object, or of pairs; false bans.

    A text stands for each of its tokens.
    """
    pairs = bias.items() if isinstance(bias, Mapping) else bias or ()
    read: dict[int, float] = {}
    for index, pair in enumerate(pairs):
        match pair:
            case (int() | str() as key, bool() | int() | float() as value) if (
                value is not True and len(str(key)) <= _LONGEST_TEXT
            ):
                added = -math.inf if value is False else float(value)
            case _:
                expected = "a token id or a short text, and a number or false"
                raise unexpected(f"logit_bias[{index}]", expected, pair)
        is_id = isinstance(key, int) or (key.isascii() and key.isdecimal() and len(key) < 10)
        for id in [int(key)] if is_id else await service.tokenize(str(key), False):
            read[id] = added
    return read
