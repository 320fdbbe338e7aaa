"""The path of a model file, and advice where it is not one."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from typing import Any

from .errors import FileAccessError, shown, unexpected

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LONGEST = 4096  # bytes: PATH_MAX of Linux, the largest of all systems
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|.*\\")


def model_path(path: Any) -> str:
    """Return the path of a file as text.

    Raises InvalidRequestError for what is no path, and FileAccessError for a name that no file can
    have or that was meant as something else: the core says what is wrong with other paths.
    """
    try:
        file = os.fsdecode(path)
        name = os.fsencode(file)
        if b"\0" not in name and len(name) <= _LONGEST:
            if not os.path.lexists(file) and (advice := _advice(file)):
                problem = f"{file}: cannot be opened: {advice}"
                raise FileAccessError(problem, param="path", got=shown(path))
            if os.path.isfile(os.path.join(file, "config.json")):
                problem = f"{file}: a checkpoint of Hugging Face; make a model file of it: "
                problem += f"starchat convert {file} model.bin --type q8_0"
                raise FileAccessError(problem, param="path", got=shown(path))
            return file
    except TypeError:
        raise unexpected("path", "a path or None", path) from None
    except UnicodeEncodeError:  # a lone surrogate
        pass
    problem = f"{shown(path)}: no file can have this name; check the path"
    raise FileAccessError(problem, param="path", got=shown(path))


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
    folder, name = os.path.split(path)
    if _HUB_NAME.fullmatch(path) and not os.path.isdir(folder):
        return (
            "no such file or folder; if it is a repository on Hugging Face, download one of its "
            f".bin files (`hf download {path} FILE --local-dir .`) and give the path of that file"
        )
    try:
        near = get_close_matches(name, os.listdir(folder or "."), n=1)
    except OSError:
        return ""
    return f"no such file; did you mean {os.path.join(folder, near[0])}?" if near else ""
