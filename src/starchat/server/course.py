"""The one route of a course's JupyterLab panel (aolney-jupyterlab-starchat-extension).

Each message is a dialogue of its own. The panel is a page of another origin, which --cors names.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from .face import Face
from .service import Prompt, Service, service
from .settings import ServerSettings

_PATH = "/api/getBotResponse"


class PanelForm(BaseModel):
    """What a student wrote."""

    model_config = ConfigDict(extra="ignore")

    user_message: str


class PanelAnswer(BaseModel):
    """What the model answers, in Markdown."""

    bot_response: str


router = APIRouter(tags=["course panel"])


@router.post(_PATH)
async def bot_response(
    form: PanelForm, service: Annotated[Service, Depends(service)]
) -> PanelAnswer:
    """Answer a message."""
    prompt = Prompt(messages=[{"role": "user", "content": form.user_message}])
    return PanelAnswer(bot_response=(await service.result(prompt, {})).text)


def face(settings: ServerSettings) -> Face | None:
    """Return the panel's face, where --starchat-service asks for it."""
    return Face("course", router, (_PATH,)) if settings.starchat_service else None
