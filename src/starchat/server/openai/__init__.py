"""OpenAI's API: chat, completions, embeddings, models and responses.

forms.py declares what comes, answers.py what goes; options.py translates between a client's words
and starchat's.
"""

from __future__ import annotations

from fastapi import APIRouter

from ..face import Face
from ..settings import ServerSettings
from . import chat, completions, embeddings, models, responses

_ENDPOINTS = (chat, completions, embeddings, models, responses)


def face(settings: ServerSettings) -> Face:
    """Return the face; its paths are also served without /v1, for base URLs that lack it."""
    router = APIRouter()
    for endpoint in _ENDPOINTS:
        router.include_router(endpoint.router, prefix="/v1")
        router.include_router(endpoint.router, include_in_schema=False)
    router.include_router(models.named, prefix="/v1")
    return Face("openai", router, ("/v1",))
