"""Event loops other than asyncio's: greenlets work, and trio is refused with a way round."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from starchat import StarChat, UnsupportedFeatureError
from support.processes import run_python

ASKED: dict[str, Callable[[StarChat], Awaitable[object]]] = {
    "acomplete": lambda model: model.acomplete("a", max_tokens=2),
    "achat": lambda model: model.achat([{"role": "user", "content": "a"}], max_tokens=2),
    "aembed": lambda model: model.aembed("a"),
    "stream": lambda model: anext(model.astream_complete("a", max_tokens=2)),
}


@pytest.mark.parametrize("name", ASKED)
def test_trio_gets_an_error_that_names_asyncio(name: str, nano: StarChat) -> None:
    async def ask() -> None:
        await ASKED[name](nano)

    with pytest.raises(UnsupportedFeatureError, match=r"asyncio.*trio\.to_thread\.run_sync"):
        trio.run(ask)
    assert trio.run(trio.to_thread.run_sync, nano.tokenize, "a") == nano.tokenize("a")


@pytest.mark.integration
def test_gevent_runs_other_greenlets_while_a_task_waits() -> None:
    result = run_python("""
        from gevent import monkey
        monkey.patch_all()
        import asyncio, gevent
        from starchat import StarChat
        model, ticks = StarChat.load(), []
        def tick():
            while True:
                ticks.append(1)
                gevent.sleep(0.001)
        ticking = gevent.spawn(tick)
        reply = asyncio.run(model.acomplete("a", max_tokens=200, ignore_eos=True, temperature=0))
        assert len(ticks) > 1
        assert reply == model.complete("a", max_tokens=200, ignore_eos=True, temperature=0)
        print(reply.usage.completion_tokens)
    """)
    assert result.stdout == "200\n", result.stderr
