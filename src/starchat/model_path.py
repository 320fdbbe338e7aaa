"""The path of a model: given, or found or fetched by its name; and advice where it is neither."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import closing
from difflib import get_close_matches
from typing import Any, Literal

from .errors import FileAccessError, shown, unexpected
from .hub.find import find
from .hub.names import HubName, hub_name, near_short_name
from .progress import LoadingBar

_LONGEST = 4096  # bytes: PATH_MAX of Linux, the largest of all systems
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|.*\\")


def model_path(
    path: Any,
    progress: Callable[[int, int], None] | Literal[False] | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> str:
    """Return the path of a model as text; what has a hub's name is fetched if it is not here.

    progress: of fetching, as StarChat.load has it. is_wanted: tells the end of it (hub/pull.py).
    Raises InvalidRequestError for what is no path, and FileAccessError for a name that no file can
    have or that was meant as something else: the core says what is wrong with other paths.
    """
    path = local_path(path, progress, is_wanted)
    try:
        file = os.fsdecode(path)
        name = os.fsencode(file)
        if b"\0" not in name and len(name) <= _LONGEST:
            if not os.path.lexists(file) and (advice := _advice(file)):
                problem = f"{file}: cannot be opened: {advice}"
                raise FileAccessError(problem, param="path", got=shown(path))
            if os.path.isdir(file) and (advice := _advice_on_folder(file)):
                problem = f"{file}: is a folder without config.json; {advice}"
                raise FileAccessError(problem, param="path", got=shown(path))
            return file
    except TypeError:
        raise unexpected("path", "a path or None", path) from None
    except UnicodeEncodeError:  # a lone surrogate
        pass
    problem = f"{shown(path)}: no file can have this name; check the path"
    raise FileAccessError(problem, param="path", got=shown(path))


def local_path(
    path: Any,
    progress: Callable[[int, int], None] | Literal[False] | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Any:
    """Return where a model is that a name means; anything else as it is."""
    name = model_name(path)
    if name is None:
        return path
    try:
        return find(name) or fetch(name, progress, is_wanted)
    except FileAccessError as error:
        if near := _near_file(path):
            error.args = (f"{error}; or did you mean the path {near}?",)
        raise


def model_name(path: Any) -> HubName | None:
    """Return the model on a hub that a text names: None for a path, and for what exists as one."""
    if not isinstance(path, str) or len(path) > _LONGEST or "\0" in path:
        return None
    name = hub_name(path)
    return None if name is None or os.path.lexists(path) else name


def fetch(
    name: HubName,
    progress: Callable[[int, int], None] | Literal[False] | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> str:
    """Return the path of a model, fetched or renewed; for people, stderr tells what is done."""
    from .hub.pull import pull  # HTTP and TLS, which `import starchat` has no use for

    if progress is not None:
        return pull(name, progress or None, is_wanted=is_wanted)
    with closing(LoadingBar(name.path or name.repo, "pulling")) as bar:
        return pull(name, bar, bar.say, is_wanted)


def _advice_on_folder(path: str) -> str:
    """Say what to give instead of a folder that holds no model; "" for one that does."""
    try:
        names = sorted(os.listdir(path))
    except OSError:
        return "its files cannot be listed"
    if "config.json" in names:
        return ""
    if "adapter_config.json" in names:
        return (
            "this is an adapter (PEFT), which needs its model: "
            "starchat convert MODEL TARGET.gguf --lora THIS"
        )
    if "snapshots" in names:  # the cache of huggingface_hub
        return "give a folder in its snapshots/"
    files = [name for name in names if name.endswith((".gguf", ".bin"))]
    if files:
        return f"name the model file in it: {os.path.join(path, files[0])}"
    if any(name.endswith(".safetensors") for name in names):
        return "download config.json and the tokenizer too"
    return "name the model file in it"


def _advice(path: str) -> str:
    """Say what a path that does not exist may have been meant as; "" for no idea."""
    scheme, separator, rest = path.partition("://")
    if path != path.strip():
        return "the path begins or ends with white space; remove it"
    if path[:1] in "'\"" and path[:1] == path[-1:]:
        return "the quotation marks are part of the path; remove them"
    if separator and scheme.lower() == "file":
        return f"this is a URL; give the path alone: /{rest.partition('/')[2]}"
    if separator:
        return "this is a URL, and models are read from files; download it and give the file's path"
    if path.startswith("~"):
        return f"only a shell expands ~; give os.path.expanduser(path): {os.path.expanduser(path)}"
    if (expanded := os.path.expandvars(path)) != path:
        return f"only a shell expands variables; give os.path.expandvars(path): {expanded}"
    if _WINDOWS.match(path):
        return "this is a path of Windows; under WSL, C:\\models\\x.bin is /mnt/c/models/x.bin"
    if near := _near_file(path):
        return f"no such file; did you mean {near}?"
    first, _, rest = path.partition("/")
    if "/" in rest and first not in ("", ".", "..") and not os.path.exists(first):
        return f"no such file; if it is on Hugging Face, give hf://{path}"
    if not os.path.dirname(path) and (short := near_short_name(path)):
        return f"no such file; did you mean {short}, which is fetched from Hugging Face?"
    return ""


def _near_file(path: str) -> str:
    """Return the path of a file whose name is nearly that of one that does not exist, or ""."""
    folder, name = os.path.split(path)
    try:
        near = get_close_matches(name, os.listdir(folder or "."), n=1)
    except (OSError, ValueError):
        return ""
    return os.path.join(folder, near[0]) if near else ""
