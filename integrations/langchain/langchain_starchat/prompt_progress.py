"""How far a long prompt is, for callbacks: custom events named "prompt_progress"."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.runnables import RunnableConfig, ensure_config

from starchat import long_prompts_only

EVENT = "prompt_progress"
PromptProgress: TypeAlias = Callable[[int, int], Awaitable[None] | None]


def events_of_run(
    run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None,
) -> PromptProgress | None:
    """Return a `prompt_progress` for starchat that tells the handlers of a run, if it has any.

    They get {"done": …, "total": …}, in tokens; nothing for a short prompt.
    """
    if run is None:
        return None
    return _events(run, isinstance(run, AsyncCallbackManagerForLLMRun), run.run_id)


def events_of_config(
    config: RunnableConfig | None, callbacks: Callbacks = None, *, is_async: bool
) -> PromptProgress | None:
    """Return the same for where LangChain hands on no run: the handlers of a config.

    That is in streams. None is the config of the runnable that is running here.
    """
    kind = AsyncCallbackManager if is_async else CallbackManager
    manager = kind.configure(ensure_config(config).get("callbacks"), callbacks)
    return _events(manager, is_async, manager.parent_run_id)


def _events(manager: Any, is_async: bool, run_id: Any) -> PromptProgress | None:
    if not manager.handlers:
        return None
    tell = partial(
        ahandle_event if is_async else handle_event,
        manager.handlers,
        "on_custom_event",
        "ignore_custom_event",
        EVENT,
        run_id=run_id,
        tags=manager.tags,
        metadata=manager.metadata,
    )
    return long_prompts_only(lambda done, total: tell({"done": done, "total": total}))
