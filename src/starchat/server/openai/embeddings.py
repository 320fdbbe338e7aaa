"""/v1/embeddings: a vector for each text, as numbers or as base64."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from ...errors import InvalidRequestError, unexpected
from ..errors import errors_as
from ..json_response import json_bytes
from ..service import Service, service
from ..settings import MOST_TEXTS
from .answers import EmbeddingList
from .forms import EmbeddingForm
from .options import check_model, log_ignored
from .routes import documented

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

router = APIRouter(tags=["OpenAI"])


@router.post("/embeddings", **documented(EmbeddingList))
async def create_embedding(
    form: EmbeddingForm, request: Request, service: Annotated[Service, Depends(service)]
) -> Response:
    """Return the vectors of texts; docs/embeddings.md says what they are worth."""
    check_model(form, service)
    log_ignored(form, request.url.path)
    info = service.info
    if form.dimensions is not None and form.dimensions > info.n_embd:
        raise unexpected("dimensions", f"1 to {info.n_embd:,}", form.dimensions, limit=info.n_embd)
    texts = await _texts(form, service)
    with errors_as({"texts[0]" if isinstance(form.input, str) else "texts": "input"}):
        vectors, n_tokens = await service.embed(texts)
    body = await _body(form, service, vectors, n_tokens)
    return Response(body, media_type="application/json")


async def _texts(form: EmbeddingForm, service: Service) -> list[str]:
    """Return the texts; token ids are those of this model's vocabulary."""
    given: Any = form.input
    if isinstance(given, str):
        return [given]
    if not given:
        raise InvalidRequestError.of("input", "the list is empty, expected at least one text")
    if isinstance(given[0], int):
        given = [given]
    if len(given) > MOST_TEXTS:
        raise unexpected("input", f"at most {MOST_TEXTS:,} texts", len(given), limit=MOST_TEXTS)
    texts = []
    n_vocab = service.info.n_vocab
    for index, item in enumerate(given):
        if not isinstance(item, str):
            if any(id >= n_vocab for id in item):
                problem = f"token ids of another vocabulary: this model's has {n_vocab:,}. Send "
                problem += "texts (LangChain's OpenAIEmbeddings: check_embedding_ctx_length=False)"
                raise InvalidRequestError.of(f"input[{index}]", problem)
            with errors_as({"token_ids": f"input[{index}]"}):
                item = await service.detokenize(item)
        texts.append(item)
    return texts


async def _body(
    form: EmbeddingForm, service: Service, vectors: npt.NDArray[np.float32], n_tokens: int
) -> bytes:
    """Return the JSON of an answer, vector by vector, so that replies go on meanwhile."""
    import numpy as np

    if form.dimensions is not None:
        vectors = vectors[:, : form.dimensions]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    pieces = []
    for index, vector in enumerate(vectors):
        numbers: Any = vector.tolist()
        if form.encoding_format == "base64":
            numbers = b64encode(vector.astype("<f4").tobytes()).decode()
        pieces.append(json_bytes({"object": "embedding", "index": index, "embedding": numbers}))
        await asyncio.sleep(0)
    usage = json_bytes({"prompt_tokens": n_tokens, "total_tokens": n_tokens})
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (
        b",".join(pieces),
        json_bytes(service.name),
        usage,
    )
