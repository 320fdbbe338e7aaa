"""How far a long prompt is, as an event of LlamaIndex's instrumentation."""

from __future__ import annotations

from collections.abc import Callable

from llama_index.core.instrumentation.events import BaseEvent
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.dispatcher import Dispatcher
from llama_index_instrumentation.event_handlers import NullEventHandler

from starchat import long_prompts_only

_dispatcher = get_dispatcher(__name__)


class PromptProgressEvent(BaseEvent):
    """Tokens of a prompt that are done, and all; while a long prompt is computed."""

    done: int
    total: int

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "PromptProgressEvent"


def progress_events() -> Callable[[int, int], None] | None:
    """Return a `prompt_progress` for starchat that dispatches the events, if anybody listens."""
    if not _is_heard():
        return None
    return long_prompts_only(
        lambda done, total: _dispatcher.event(PromptProgressEvent(done=done, total=total))
    )


def _is_heard() -> bool:
    dispatcher: Dispatcher | None = _dispatcher
    while dispatcher:
        if not all(isinstance(each, NullEventHandler) for each in dispatcher.event_handlers):
            return True
        dispatcher = dispatcher.parent if dispatcher.propagate else None
    return False
