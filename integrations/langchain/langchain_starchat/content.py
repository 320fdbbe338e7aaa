"""Content blocks → text: those of LangChain, of other providers, and of MCP servers' results.

Histories of other models are read: an assistant's thoughts, calls and server tools are left out,
a tool's pictures and files become a placeholder. A user's picture is an error.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from starchat import InvalidRequestError, Role
from starchat.model_settings import write_json
from starchat.openai import read_text_part

_LONGEST_FILE = 1 << 22  # bytes, base64 or not: a call holds the GIL
_TEXTS = ("text", "input_text", "output_text", "refusal")
_NESTED = ("tool_result", "search_result", "document")  # Anthropic's, with content of their own
_THOUGHTS = ("reasoning", "thinking", "redacted_thinking", "reasoning_content", "thought")
_PLAIN = ("text/", "application/json", "application/xml")
_PLAIN_FORMATS = ("txt", "md", "csv", "html")
_DATA_URL = re.compile(f"data:({'|'.join(_PLAIN)})[^,]*;base64,")
_MEDIA = {"image": "image", "audio": "audio", "video": "video"} | dict.fromkeys(
    ("file", "document", "media"), "file"
)
_DATA = ("base64", "data", "url", "uri", "file_id", "source", "source_type", "bytes")


def content_text(where: str, content: Any, role: Role, *, lenient: bool = False) -> str:
    """Return the text of a message's content, which is a string or a list of blocks.

    >>> screenshot = {"type": "image", "base64": "iVBO…", "mime_type": "image/png"}
    >>> content_text("content", ["Done. ", screenshot], "tool")
    'Done. [image not shown]'
    """
    if isinstance(content, str):
        return content
    blocks = [content] if isinstance(content, Mapping) else content
    texts = [
        _block(f"{where}[{index}]", block, role, lenient) for index, block in enumerate(blocks)
    ]
    return "".join(texts)


def _block(where: str, block: Any, role: Role, lenient: bool) -> str:
    kind = block.get("type") if isinstance(block, Mapping) else "text"
    is_asked = role in ("system", "user") and not lenient
    if kind in _TEXTS:
        is_empty = isinstance(block, Mapping) and not block.get("text") and not block.get("refusal")
        return "" if is_empty and not is_asked else read_text_part(where, block)
    if kind == "non_standard" and isinstance(block.get("value"), Mapping):
        return _block(where, block["value"], role, lenient)
    if role == "assistant" and kind in _THOUGHTS:
        return ""
    text = _text(where, block, role, lenient)
    if text is not None:
        return text
    if is_asked:
        return read_text_part(where, block)  # which says what the block is
    name = f"{kind or next(iter(block), '')} {block.get('mime_type')}"
    media = next((shown for word, shown in _MEDIA.items() if word in name), None)
    if role == "assistant":  # calls, server tools, citations …
        return f"[{media} not shown]" if media else ""
    if media or not block.keys().isdisjoint(_DATA):
        return f"[{media or 'file'} not shown]"
    return _json(block)


def _text(where: str, block: Mapping[str, Any], role: Role, lenient: bool) -> str | None:
    """Return the text within a block, None where it has none."""
    match block:
        case {"text": str(text)}:  # untyped, or of a plain text file
            return text
        case {"json": value}:
            return _json(value)
        case {"cachePoint": _} | {"cache_point": _}:
            return ""
        case {"source": {"type": "text", "data": str(text)}}:
            return text
        case {"source": {"type": "content", "content": content}}:
            return content_text(f"{where}.source.content", content, role, lenient=lenient)
        case {"type": kind, "content": content} if kind in _NESTED:
            inner: Role = "tool" if kind == "tool_result" else role
            return content_text(f"{where}.content", content, inner, lenient=lenient)
        case (
            {"mime_type": str(mime), "base64": str(data)}
            | {"mime_type": str(mime), "source_type": "base64", "data": str(data)}
            | {"type": "media", "mime_type": str(mime), "data": str(data) | bytes(data)}
            | {"source": {"type": "base64", "media_type": str(mime), "data": str(data)}}
        ) if mime.startswith(_PLAIN):
            return _decoded(where, data)
        case {"file_data": str(url)} | {"file": {"file_data": str(url)}} if (
            found := _DATA_URL.match(url)
        ):
            return _decoded(where, url[found.end() :])
        case {"document": {"format": str(form), "source": {"bytes": bytes(data)}}} if (
            form in _PLAIN_FORMATS
        ):
            return _decoded(where, data)
    return None


def _json(value: Any) -> str:
    return write_json(value, ensure_ascii=False, default=repr)


def _decoded(where: str, data: str | bytes) -> str:
    if len(data) > _LONGEST_FILE:
        problem = f"expected a text file of at most {_LONGEST_FILE:,} bytes, got {len(data):,}: "
        problem += "no context holds more"
        raise InvalidRequestError.of(where, problem, limit=_LONGEST_FILE, got=len(data))
    if isinstance(data, bytes):
        return data.decode("utf-8", "replace")
    try:
        return base64.b64decode(data, validate=True).decode("utf-8", "replace")
    except ValueError as exc:
        problem = f"expected a text file in base64, got {data:.40}: {exc}"
        raise InvalidRequestError.of(where, problem) from exc
