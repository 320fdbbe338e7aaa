"""`starchat serve`: a model over HTTP, for OpenAI's clients and others."""

from __future__ import annotations

import inspect
import os
import signal
from dataclasses import Field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UnsupportedFeatureError
from ..server.settings import OPTIONS, ServerSettings
from .options import read_text
from .terminal import note

if TYPE_CHECKING:
    from ..server.service import Service


def serve(**given: Any) -> None:
    """Serve a model over HTTP: OpenAI's API and others, and a page to chat.

    Only this machine reaches it, unless --host says otherwise. SIGTERM or Ctrl-C lets what runs
    end, a second one does not. docs/serving.md has the details.
    """
    settings = with_keys(_settings(given)).check()
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        if find_spec(name) is None:
            problem = f"starchat serve needs {name}: pip install 'starchat[serve]'"
            raise UnsupportedFeatureError(problem)
    if settings.ray:
        _serve_on_ray(settings)
        return
    from ..server.run import run

    address = ""

    def on_listening(url: str) -> None:
        nonlocal address
        address = url
        note(f"{url} · loading {settings.model or 'the embedded model'}")

    def on_loaded(service: Service) -> None:
        info = service.info
        note(f"{address} · {service.name} · context {info.n_ctx:,} tokens · Ctrl-C ends")
        if not settings.uds:
            key = "…" if settings.api_key else "none"
            note(
                f'  client = openai.OpenAI(base_url="{address}/v1", api_key="{key}")\n'
                '  question = {"role": "user", "content": "How do I sort a list?"}\n'
                '  client.chat.completions.create(model="starchat", messages=[question])'
            )

    if run(settings, on_listening, on_loaded) == signal.SIGINT:
        raise KeyboardInterrupt


def _serve_on_ray(settings: ServerSettings) -> None:
    if find_spec("ray") is None:
        raise UnsupportedFeatureError("--ray needs ray: pip install 'starchat[ray]'")
    from ..server.ray import run

    def on_ready(url: str) -> None:
        most = max(settings.min_replicas, settings.max_replicas)
        note(f"{url} · {settings.min_replicas} to {most} replicas · Ctrl-C ends")

    if run(settings, on_ready) == signal.SIGINT:
        raise KeyboardInterrupt


def with_keys(settings: ServerSettings) -> ServerSettings:
    """Return the settings with the keys of the environment and of the file."""
    file = settings.api_key_file
    return settings.with_keys(read_text(file, "--api-key-file") if file else None)


def _settings(given: dict[str, Any]) -> ServerSettings:
    values: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        negative = option.metadata.get("no")
        value: Any = not given[negative] if negative else given[name]
        values[name] = tuple(value or ()) if isinstance(option.default, tuple) else value
    return ServerSettings(**values)


def _parameter(option: Field[Any]) -> inspect.Parameter:
    """Return a setting as an option of the command."""
    name, default = option.metadata.get("no") or option.name, option.default
    names, help = ["--" + name.replace("_", "-")], option.metadata["meaning"]
    more: dict[str, Any] = {}
    if isinstance(default, tuple):
        kind: Any = list[str]
        default, help = None, f"{help} Give it once for each."
    else:
        kind = _KINDS[str(option.type).split(" ")[0]]
        default = False if name != option.name else default
    if name in ("model", "prefix", "draft"):
        more = {"parser": os.path.expanduser}
    if name == "model":
        names.append("-m")
    elif name == "check_memory":
        names = ["--check-memory/--no-check-memory"]
    optional = kind if default is not None else kind | None
    declared = typer.Option(*names, metavar=option.metadata["metavar"], help=help, **more)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[optional, declared],
    )


_KINDS = {"int": int, "float": float, "bool": bool, "str": str}
_PARAMETERS = [_parameter(option) for option in OPTIONS.values()]
serve.__signature__ = inspect.Signature(_PARAMETERS)  # type: ignore[attr-defined]
serve.__annotations__ = {each.name: each.annotation for each in _PARAMETERS}
