"""Fields of bodies → the keywords of StarChat's methods, and the names of errors back.

Clients are laxer than the engine: what they send is brought into its one form here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidRequestError, shown, unexpected
from ...openai import choose_tools, read_response_format
from ..errors import ApiError, errors_as
from ..security import shown as printable
from ..service import Prompt, Service
from .forms import Form, ReplyForm

_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "min_tokens"),
    *("frequency_penalty", "presence_penalty", "repetition_penalty", "repetition_window"),
    *("ignore_eos", "schema_limits", "cache_salt"),
)
_TOOL_KEYS = ("name", "description", "parameters", "strict")
_BANNED = -100.0  # OpenAI's least bias
_MOST_NAMES = 256  # of ignored fields, that are logged
_log = logging.getLogger("starchat.server")
_logged: set[str] = set()


@dataclass
class Asked:
    """A request in starchat's terms; `names` and `places` as in errors_as."""

    prompt: Prompt
    options: dict[str, Any]
    names: dict[str, str] = field(default_factory=dict)
    places: Sequence[str] = ()

    def errors(self) -> AbstractContextManager[None]:
        """Raise what is raised within as an ApiError in the client's terms."""
        return errors_as(self.names, self.places)


def check_model(form: Form, service: Service) -> None:
    """Raise ApiError 404 where another model is asked for, and the server is strict about it."""
    if service.settings.strict_model and form.model not in (None, service.name):
        raise no_such_model(form.model, service)


def no_such_model(name: str | None, service: Service) -> ApiError:
    """Return the error that names the model which is served."""
    problem = f"model: {shown(name)} is not served here, {shown(service.name)} is"
    kind = "invalid_request_error"
    return ApiError(404, problem, code="model_not_found", type=kind, param="model")


def unsupported(param: str, problem: str) -> ApiError:
    """Return the error for a field that is known and cannot be served."""
    code = "unsupported_feature"
    return ApiError(400, f"{param}: {problem}", code=code, param=param)


def log_ignored(form: Form, path: str) -> None:
    """Log the names of fields that the server does not know, each once."""
    for name in form.model_extra or ():
        if name not in _logged and len(_logged) < _MOST_NAMES:
            _logged.add(name)
            _log.info("%s: the field %s is ignored", path, printable(name))


def system_order(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the indices of messages as read_messages sorts them: system messages first."""
    roles = [message.get("role") for message in messages]
    return sorted(range(len(roles)), key=lambda i: roles[i] not in ("system", "developer"))


def reply_options(form: ReplyForm) -> dict[str, Any]:
    """Return the keywords that every endpoint has; None where the default holds."""
    options: dict[str, Any] = {name: getattr(form, name) for name in _SAME}
    if form.top_p == 0:  # OpenAI's least value, of which only the likeliest token is left
        options.update(top_p=None, temperature=0.0)
    if form.seed is not None:
        options["seed"] = form.seed % 2**64 if -(2**63) <= form.seed < 0 else form.seed
    if form.logit_bias is not None:
        options["logit_bias"] = _read_bias(form.logit_bias)
    return options


def _read_bias(bias: Mapping[str, float]) -> dict[int, float]:
    read = {}
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10):
            raise unexpected("logit_bias", "token ids as keys", key)
        if not -100 <= value <= 100:
            raise unexpected(f"logit_bias.{key}", "a number from -100 to 100", value)
        read[int(key)] = float("-inf") if value == _BANNED else value
    return read


def constraint(
    form: ReplyForm, response_format: Any = None, where: str = "response_format"
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the one constraint as a keyword, and where the client has it.

    Raises InvalidRequestError for more than one.
    """
    found: list[tuple[str, str, Any]] = []  # the client's name, starchat's, value
    with errors_as({"response_format": where}):
        if (schema := read_response_format(response_format)) is not None:
            found.append((where, "json_schema", schema))
    for name in ("json_schema", "regex", "grammar", "choice"):
        found.append((name, name, getattr(form, name)))
        guided = f"guided_{name.removesuffix('_schema')}"
        found.append((guided, name, getattr(form, guided)))
    for key, value in (form.structured_outputs or {}).items():
        name = f"structured_outputs.{key[:64]}"
        if key == "json_object":
            found.append((name, "json_schema", value or None))
        elif key in ("json", "regex", "choice", "grammar"):
            found.append((name, "json_schema" if key == "json" else key, value))
        elif value:
            raise unsupported(name, "expected json, regex, choice, grammar or json_object")
    given = [(name, keyword, value) for name, keyword, value in found if value is not None]
    if len(given) > 1:
        problem = f"expected one constraint, {given[0][0]} is another"
        raise InvalidRequestError.of(given[1][0], problem)
    for name, keyword, value in given:
        if keyword == "json_schema" and isinstance(value, str):
            value = _read_schema(name, value)
        return {keyword: value}, {keyword: name}
    return {}, {}


def _read_schema(where: str, text: str) -> Any:
    """Return the JSON Schema in a text, as vLLM's clients may send it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unexpected(where, "a JSON Schema, or the text of one", text) from error


def tool_options(
    tools: Sequence[Mapping[str, Any]] | None, choice: Any, parallel: bool | None
) -> dict[str, Any]:
    """Return the keywords of tools; keys of a definition that say nothing to a model go."""
    if not tools and choice in (None, "auto", "none"):
        return {}
    read, chosen = choose_tools(tools, choice)
    known = [_known_keys(tool) for tool in read]
    return {"tools": known, "tool_choice": chosen, "parallel_tool_calls": parallel}


def _known_keys(tool: dict[str, Any]) -> dict[str, Any]:
    if "function" not in tool:
        return {key: tool[key] for key in _TOOL_KEYS if key in tool}
    function = tool["function"]
    if isinstance(function, dict):
        function = {key: function[key] for key in _TOOL_KEYS if key in function}
    return {"type": "function", "function": function}
