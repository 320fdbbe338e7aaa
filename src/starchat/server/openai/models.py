"""/v1/models: the one model that is served."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from ..json_response import Json
from ..service import Service, service
from .answers import ModelList, ModelObject
from .options import no_such_model
from .routes import documented

router = APIRouter(tags=["OpenAI"])
named = APIRouter(tags=["OpenAI"])  # without /v1, Hugging Face's face has names below /models
_BEGAN = int(time.time())


@router.get("/models", **documented(ModelList))
async def list_models(service: Annotated[Service, Depends(service)]) -> Response:
    """Return the models that are served."""
    return Json({"object": "list", "data": [_model(service)]})


@named.get("/models/{name:path}", **documented(ModelObject))
async def retrieve_model(name: str, service: Annotated[Service, Depends(service)]) -> Response:
    """Return the model that is served by a name."""
    model = _model(service)
    if service.settings.strict_model and name != model["id"]:
        raise no_such_model(name, service)
    return Json(model)


def _model(service: Service) -> ModelObject:
    info = service.info
    return {
        "id": service.name,
        "object": "model",
        "created": _BEGAN,
        "owned_by": "starchat",
        "max_model_len": info.n_ctx,
        "meta": {
            "n_vocab": info.n_vocab,
            "n_ctx_train": info.n_ctx,
            "n_embd": info.n_embd,
            "n_params": info.n_params,
            "size": info.weight_bytes,
        },
    }
