"""What an operator decides: each option of `starchat serve`, declared once.

cli/serve.py makes the command's options of these fields. Imports nothing of the server's extra.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from ..errors import FileAccessError, InvalidRequestError

# Bounds on one request that no operator has to change; those of the engine are starchat.Limits.
MOST_REPLIES = 16  # n
MOST_CANDIDATES = 20  # best_of
MOST_STOPS = 16
MOST_TEXTS = 2_048  # to embed
MOST_TOOLS = 128
MOST_BIASES = 512
MOST_LOGPROBS = 20
MOST_SCHEMA_BYTES = 1 << 16
MOST_HEADERS = 200
HEAD_BYTES = 1 << 16  # of all headers
MOST_VALUES = 1 << 15  # in a body, by its commas outside of strings
MOST_COMPILING = 4  # grammars at the same time; a hostile one takes seconds of a core
MOST_TO_COMPILE = 16  # requests whose grammar is compiled, or waits for it


_KEYS = "STARCHAT_API_KEY"


def _option(default: Any, meaning: str, metavar: str | None = None, **more: Any) -> Any:
    return field(default=default, metadata={"meaning": meaning, "metavar": metavar, **more})


@dataclass(frozen=True)
class ServerSettings:
    """Options of the server; `check()` says what is wrong with them.

    >>> ServerSettings(port=0).is_loopback
    True
    """

    # ---- the model
    model: str | None = _option(
        None,
        "A model file or folder, or a name as of starchat pull; by default the embedded one.",
        "FILE",
    )
    threads: int | None = _option(
        None, "CPU threads; by default one for each core.", "N", keyword="n_threads"
    )
    ctx: int | None = _option(
        None,
        "Tokens that prompt and reply may have together; by default the file's.",
        "N",
        keyword="n_ctx",
    )
    prefix_cache: int | None = _option(
        None,
        "Bytes of the cache of finished prompts; by default one context, 0: none.",
        "BYTES",
        keyword="prefix_cache_bytes",
    )
    prefix: tuple[str, ...] = _option(
        (),
        "A file of StarChat.save_prefix: prompts that begin like it begin at once, for all users.",
        "FILE",
    )
    check_memory: bool = _option(
        True, "Refuse a model that does not fit into the memory that is free."
    )
    draft: str | None = _option(
        None,
        "A smaller model of the same family, which guesses ahead: the same answers, sooner.",
        "FILE",
    )
    gpu_layers: str | None = _option(
        None, "Last layers that a GPU computes; auto: as many as fit, -1: all.", "N"
    )
    device: str | None = _option(
        None, "Which GPU, as of starchat devices; by default the best.", "NAME"
    )
    served_name: str | None = _option(
        None, "What the server calls the model; by default the file's name.", "NAME"
    )
    strict_model: bool = _option(
        False, "Refuse requests that name another model; by default any name is served."
    )

    # ---- the address
    host: str = _option("127.0.0.1", "Address to listen at.", "HOST")
    port: int = _option(8080, "Port to listen at; 0: a free one.", "PORT")
    uds: str | None = _option(None, "Listen at this Unix socket instead.", "PATH")
    ssl_keyfile: str | None = _option(None, "Key of the TLS certificate.", "FILE")
    ssl_certfile: str | None = _option(None, "TLS certificate, with its chain.", "FILE")
    behind_proxy: bool = _option(
        False, "Believe the X-Forwarded headers of a proxy on this machine."
    )

    # ---- who may ask
    api_key: tuple[str, ...] = _option(
        (),
        "Key that requests must bring. STARCHAT_API_KEY does the same, unseen by others.",
        "KEY",
    )
    api_key_file: str | None = _option(None, "File of keys, one in a line.", "FILE")
    no_auth: bool = _option(False, "Listen beyond this machine without any key.")
    allowed_host: tuple[str, ...] = _option(
        (), "Name by which browsers may reach the server, beside localhost.", "NAME"
    )
    cors: tuple[str, ...] = _option(
        (), "Origin whose pages may ask, as https://example.com; *: every one.", "ORIGIN"
    )

    # ---- how much
    max_running: int = _option(64, "Requests that are computed at the same time.", "N")
    max_queue: int = _option(64, "Requests that wait; beyond them, 503.", "N")
    kv_budget: int | None = _option(
        None,
        "Bytes of the KV cache that running requests may take; by default half of the memory "
        "that is free once the model is loaded.",
        "BYTES",
    )
    max_body: int = _option(8 << 20, "Bytes of a request's body.", "BYTES")
    default_max_tokens: int = _option(1_024, "Tokens of a reply where a request does not say.", "N")
    request_timeout: float = _option(
        1_800.0, "Seconds that a request may take, waiting included; 0: any.", "S"
    )
    drain_timeout: float = _option(
        30.0, "Seconds that running requests have after SIGTERM or Ctrl-C.", "S"
    )
    sse_ping: float = _option(
        15.0, "Seconds without an event after which a stream gets a comment; 0: never.", "S"
    )

    # ---- what is served
    plain_prompts: bool = _option(
        False, "Read control tokens that are spelt out in raw prompts as plain text."
    )
    ui: bool = _option(True, "Serve the chat page.", no="no_ui")
    kobold: bool = _option(True, "Serve KoboldAI's API.", no="no_kobold")
    metrics: bool = _option(True, "Serve Prometheus' metrics at /metrics.", no="no_metrics")
    slots: bool = _option(False, "Serve llama.cpp's /slots, without prompts.")
    starchat_service: bool = _option(False, "Serve /api/getBotResponse of the course's panel.")
    log_json: bool = _option(False, "Write the log as JSON.")

    # ---- on several machines
    ray: bool = _option(False, "Serve by replicas on a Ray cluster, or on one made for it.")
    min_replicas: int = _option(1, "With --ray: replicas that always run.", "N")
    max_replicas: int = _option(1, "With --ray: replicas that run under load.", "N")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches the server."""
        if self.uds or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @classmethod
    def of_texts(cls, given: Mapping[str, Any]) -> ServerSettings:
        """Return settings from values as text, as `serve run` has them; lists have commas.

        >>> ServerSettings.of_texts({"threads": "4", "ray": "true", "cors": "*"}).threads
        4
        """
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in OPTIONS:
                near = get_close_matches(name, OPTIONS, 1)
                problem = "there is no such option" + (f": {near[0]}?" if near else "")
                raise InvalidRequestError.of(name, problem)
            try:
                values[name] = _read(OPTIONS[name], value) if isinstance(value, str) else value
            except (ValueError, KeyError):
                kind = str(OPTIONS[name].type)
                raise InvalidRequestError.of(name, f"expected {kind}, got {value!r}") from None
        return cls(**values)

    def with_keys(self, of_file: str | None) -> ServerSettings:
        """Return these settings with the keys of the environment and of api_key_file's text."""
        keys = [*self.api_key]
        if from_environment := os.environ.get(_KEYS):
            keys.append(from_environment)
        if of_file is not None:
            lines = [line.strip() for line in of_file.split("\n")]
            from_file = [line for line in lines if line and not line.startswith("#")]
            if not from_file:
                raise FileAccessError.of("--api-key-file", f"{self.api_key_file}: no key in it")
            keys += from_file
        return replace(self, api_key=tuple(dict.fromkeys(keys)))

    def check(self) -> ServerSettings:
        """Return these settings; raise InvalidRequestError for what contradicts itself."""
        if not (self.is_loopback or self.api_key or self.no_auth):
            problem = f"{self.host} is reached from other machines, and there is no key: give "
            problem += "--api-key-file or STARCHAT_API_KEY, or --no-auth to let everybody ask"
            raise InvalidRequestError.of("host", problem)
        if not 0 <= self.port < 1 << 16:
            raise InvalidRequestError.of("port", f"expected 0 to 65535, got {self.port}")
        for option, form, expected in _FORMS:
            for given in getattr(self, option):
                if not form.fullmatch(given):
                    raise InvalidRequestError.of(option, f"expected {expected}")
        if bool(self.ssl_keyfile) != bool(self.ssl_certfile):
            problem = "expected --ssl-keyfile and --ssl-certfile together"
            raise InvalidRequestError.of("ssl_keyfile", problem)
        if self.ray and (self.uds or not self.port):
            problem = "Ray's proxies have no Unix sockets, and need the number of a free port"
            raise InvalidRequestError.of("ray", problem)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InvalidRequestError.of(name, f"expected at least {least}, got {value}")
        return self


def _read(option: Field[Any], text: str) -> Any:
    if isinstance(option.default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(option.default, bool):
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    read = {"int": int, "float": float}.get(str(option.type).split(" ")[0], str)
    return read(text)


#: option → the form of each of its values, and what that is; a key is not shown
_FORMS = (
    ("api_key", re.compile(r"[!-~]+"), "a key of ASCII's visible characters"),
    ("allowed_host", re.compile(r"[\w.-]+"), "a name alone, as chat.example.com"),
    (
        "cors",
        re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#]+/?", re.I),
        "an origin, as https://example.com, or *",
    ),
)
_LEAST = {
    **dict.fromkeys(("threads", "ctx", "min_replicas", "max_replicas"), 1),
    **dict.fromkeys(("max_running", "max_body", "default_max_tokens", "kv_budget"), 1),
    **dict.fromkeys(("prefix_cache", "max_queue"), 0),
    **dict.fromkeys(("request_timeout", "drain_timeout", "sse_ping"), 0),
}
OPTIONS = {option.name: option for option in fields(ServerSettings)}
