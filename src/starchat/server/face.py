"""A face: the routes of one protocol, and how it writes an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter

from .errors import ApiError, openai_body


@dataclass(frozen=True)
class Face:
    """What app.py takes of a module of this package: the result of its `face(settings)`.

    paths: a path belongs to a face if it is one of these, or below one: "/v1" has "/v1/models",
    but "/" only itself, and "/models/" only what is below it. The longest of all faces wins; paths
    of none have OpenAI's errors.
    error_body: the JSON of an error, also of 404, 405, 413, 422 and of wrong keys.
    public: paths that GET reads without a key, by their templates as routes have them.
    """

    name: str
    router: APIRouter
    paths: tuple[str, ...]
    error_body: Callable[[ApiError], Any] = openai_body
    public: tuple[str, ...] = ()


class Faces:
    """The faces of an application, by path."""

    def __init__(self, faces: Iterable[Face]) -> None:
        """Sort them by their paths, the longest first."""
        self.all = tuple(faces)
        owned = [(path, face) for face in self.all for path in face.paths]
        self._owned = sorted(owned, key=lambda item: -len(item[0]))

    def of(self, path: str) -> Face | None:
        """Return the face that owns a path."""
        for owned, face in self._owned:
            if path == owned or (owned != "/" and path.startswith(owned.rstrip("/") + "/")):
                return face
        return None

    def error_body(self, path: str, error: ApiError) -> Any:
        """Return the JSON of an error as the face that owns the path writes it."""
        face = self.of(path)
        return face.error_body(error) if face else openai_body(error)
