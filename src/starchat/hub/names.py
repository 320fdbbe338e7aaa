"""Names of models on a hub, and which texts are names: a path that exists never is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import unquote, urlsplit

from ..errors import FileAccessError
from .settings import endpoint

#: short name → repository, and whether a model card or a list of files names it
SHORT_NAMES = {
    "starchat-beta": ("TheBloke/starchat-beta-GGML", True),
    "starchat-alpha": ("HuggingFaceH4/starchat-alpha", True),
    "starcoder": ("TheBloke/starcoder-GGML", True),
    "starcoderplus": ("TheBloke/starcoderplus-GGML", True),
    "santacoder": ("bigcode/santacoder", False),
    "tiny_starcoder": ("bigcode/tiny_starcoder_py", False),
}
FORMS = (
    "OWNER/REPO[:QUANT], hf.co/OWNER/REPO[:QUANT], hf://OWNER/REPO[@REVISION][/FILE], or one of "
    + ", ".join(SHORT_NAMES)
)

_SEGMENT = r"(?!\.)(?![^/]*(?:--|\.\.))[\w.-]{1,96}(?<![.-])"  # as the hub allows them
_REPO = re.compile(rf"({_SEGMENT}/{_SEGMENT})", re.ASCII)
_QUANT = r"(?::([\w.-]{1,64}))?"
_NAME = re.compile(rf"({_SEGMENT}/{_SEGMENT})(?:@([\w./%-]+))?{_QUANT}", re.ASCII)
_SHORT = re.compile(rf"([\w.-]+){_QUANT}", re.ASCII)
_SPECIAL_REVISION = re.compile(r"(refs/(?:pr/\d+|convert/[\w.-]+))(?:/(.*))?")
_FILE_NAME = re.compile(r"\.(bin|gguf|ggml|safetensors|pth?|json)$", re.IGNORECASE)
_OF_PATHS = "/", "./", "../", "~", ".\\", "..\\"
_VIEWS = "resolve", "blob", "raw", "tree"
_NO_MODELS = "datasets", "spaces", "buckets", "kernels"


@dataclass(frozen=True)
class HubName:
    """A model on a hub: what is left out is "", and chosen when it is looked for."""

    repo: str
    revision: str = "main"
    path: str = ""  # of one file
    quant: str = ""

    def __str__(self) -> str:
        """Return the name as people write it."""
        revision = "" if self.revision == "main" else f"@{self.revision}"
        if self.path:
            return f"hf://{self.repo}{revision}/{self.path}"
        return f"{self.repo}{revision}" + (f":{self.quant}" if self.quant else "")


def is_safe(path: str) -> bool:
    """Return whether a file's name in a repository stays below the folder it is put into.

    >>> is_safe("Q8_0/a-00001-of-00002.gguf"), is_safe("../a.gguf"), is_safe("/etc/passwd")
    (True, False, False)
    """
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not {"", ".", ".."} & {*parts}


def looks_like_path(text: str) -> bool:
    """Return whether a text can only be meant as a path: by its beginning or by its ending.

    >>> looks_like_path("./starcoder"), looks_like_path("a/b.gguf"), looks_like_path("a/b")
    (True, True, False)
    """
    return text.startswith(_OF_PATHS) or ("://" not in text and bool(_FILE_NAME.search(text)))


def hub_name(text: str) -> HubName | None:
    """Return the model that a text names; None where it is no name.

    Raises FileAccessError for an address of a hub that names no model.

    >>> hub_name("TheBloke/starchat-beta-GGML:q4_0")
    HubName(repo='TheBloke/starchat-beta-GGML', revision='main', path='', quant='q4_0')
    >>> str(hub_name("hf://bigcode/santacoder@refs/pr/3/model.gguf"))
    'hf://bigcode/santacoder@refs/pr/3/model.gguf'
    """
    rest = _on_a_hub(text)
    if rest is not None:
        name = _address(rest)
        if name is None:
            raise FileAccessError(f"{text}: expected {FORMS}", param="path", got=text[:80])
        return name
    if looks_like_path(text):
        return None
    if (short := _SHORT.fullmatch(text)) and short[1].lower() in SHORT_NAMES:
        return _named(SHORT_NAMES[short[1].lower()][0], "", short[2])
    if match := _NAME.fullmatch(text):
        return _named(match[1], match[2], match[3])
    return None


def near_short_name(text: str) -> str:
    """Return the short name that a text may be meant as, or ""."""
    return next(iter(get_close_matches(text.lower(), SHORT_NAMES, n=1)), "")


def _on_a_hub(text: str) -> str | None:
    """Return what follows the hub in an address; None for a text that has none."""
    if text[:5].lower() == "hf://":
        return text[5:]
    try:
        url = urlsplit(text)
    except ValueError:  # brackets that are no address
        return None
    if url.scheme.lower() in ("http", "https"):
        hosts = "huggingface.co", "hf.co", urlsplit(endpoint()).netloc
        return url.path.strip("/") if url.netloc.lower() in hosts else None
    host, slash, rest = text.partition("/")
    return rest if slash and host.lower() in ("hf.co", "huggingface.co") else None


def _address(rest: str) -> HubName | None:
    """Return what OWNER/REPO and the revision, file or quantization behind it name."""
    rest = rest.removeprefix("models/")
    match = _REPO.match(rest)
    if not match or rest.split("/")[0] in _NO_MODELS:
        return None
    repo, rest = match[1], rest[match.end() :]
    if rest[:1] == "@":
        special = _SPECIAL_REVISION.fullmatch(rest[1:])
        if special:
            return _named(repo, special[1], "", special[2])
        revision, _, path = rest[1:].partition("/")
        revision, _, quant = revision.partition(":")
        return _named(repo, revision, quant, path) if revision else None
    if rest[:1] == ":":
        return _named(repo, "", rest[1:]) if re.fullmatch(r"[\w.-]+", rest[1:]) else None
    if rest[:1] not in ("", "/"):
        return None
    first, _, path = rest[1:].partition("/")
    if first in _VIEWS and path:  # as a browser's address has it
        special = _SPECIAL_REVISION.fullmatch(path)
        revision, _, path = path.partition("/") if not special else (special[1], "", special[2])
        return _named(repo, revision, "", unquote(path or ""))
    return _named(repo, "", "", rest[1:])


def _named(repo: str, revision: str, quant: str | None, path: str | None = "") -> HubName | None:
    quant = "" if (quant or "").lower() == "latest" else quant or ""  # as ollama names the default
    revision = unquote(revision or "") or "main"
    if not is_safe(revision) or (path and not is_safe(path)):
        return None
    return HubName(repo, revision, path or "", quant)
