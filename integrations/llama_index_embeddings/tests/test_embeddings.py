"""StarChat's vectors in LlamaIndex: alone, in batches, async, in an index; and their mistakes."""

import asyncio
import copy
import json
import pickle
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.schema import TextNode
from llama_index.embeddings import starchat as package
from llama_index.embeddings.starchat import StarChatEmbedding

import starchat

TEXTS = [
    "sort a list",
    "def add(a, b):\n    return a + b",
    "שלום 東京 👩‍👩‍👧",
    "<|end|>",
    "\0",
    "x " * 300,
]


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    """Return whether the condition comes true in time, without blocking the loop."""
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    return condition()


@pytest.fixture
def embedder() -> StarChatEmbedding:
    return StarChatEmbedding()


async def test_every_way_gives_the_same_vectors(embedder: StarChatEmbedding) -> None:
    expected = embedder.engine.embed(TEXTS).tolist()
    assert embedder.get_text_embedding_batch(TEXTS) == expected
    assert await embedder.aget_text_embedding_batch(TEXTS) == expected
    for text, vector in zip(TEXTS, expected, strict=True):
        assert embedder.get_text_embedding(text) == embedder.get_query_embedding(text) == vector
        assert await embedder.aget_text_embedding(text) == vector
        assert await embedder.aget_query_embedding(text) == vector
        assert all(type(number) is float for number in vector)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)
    small = StarChatEmbedding(embed_batch_size=1)
    assert small.get_text_embedding_batch(TEXTS) == expected


def test_names_of_other_embedders_get_a_hint() -> None:
    with pytest.raises(ValueError, match="no argument 'context_window': did you mean 'n_ctx'"):
        StarChatEmbedding(context_window=512)
    for name in ("bigcode/starcoder", "starchat-beta.ggmlv3.q4_0.bin"):
        with pytest.raises(ValueError, match="not a model: did you mean model_path"):
            StarChatEmbedding(model_name=name)


def test_model_is_another_name_of_model_path() -> None:
    assert StarChatEmbedding(model="here.bin").model_path == "here.bin"


def test_a_dict_becomes_an_embedder_again() -> None:
    from llama_index.core.embeddings.loading import load_embed_model

    embedder = StarChatEmbedding(embed_batch_size=7)
    again = load_embed_model(json.loads(embedder.to_json()))
    assert type(again) is StarChatEmbedding
    assert again.to_dict() == embedder.to_dict()


async def test_many_at_once_beside_replies_are_as_alone(embedder: StarChatEmbedding) -> None:
    question, options = "How do I sort a list?", {"temperature": 0, "max_tokens": 24}
    texts = [f"sort a list {'again ' * i}" for i in range(16)]
    alone = [embedder.get_text_embedding(text) for text in texts]
    answer = embedder.engine.complete(question, **options).text
    *together, reply = await asyncio.gather(
        *(embedder.aget_text_embedding(text) for text in texts),
        embedder.engine.acomplete(question, **options),
    )
    assert together == alone
    assert reply.text == answer


@pytest.mark.parametrize("is_async", [False, True], ids=["plain", "async"])
async def test_texts_without_a_vector_are_refused(
    embedder: StarChatEmbedding, is_async: bool
) -> None:
    async def embed(texts: list[str]) -> Any:
        if is_async:
            return await embedder.aget_text_embedding_batch(texts)
        return embedder.get_text_embedding_batch(texts)

    with pytest.raises(starchat.InvalidRequestError, match=r"texts\[1\] is empty"):
        await embed(["a", ""])
    with pytest.raises(starchat.ContextLengthError, match="the context holds 2,048"):
        await embed(["sort! " * 5000])
    assert len(await embed(["a", "b"])) == 2


async def test_a_node_that_is_too_long_names_itself(embedder: StarChatEmbedding) -> None:
    long = TextNode(text="sort! " * 5000, metadata={"file_name": "huge.py"})
    nodes = [*(TextNode(text="a") for _ in range(130)), long]  # the 3rd text of the 2nd batch
    message = r"texts\[2\] has .* or split it; the text begins with 'file_name: huge\.py"
    for embed in (embedder, lambda nodes: VectorStoreIndex(nodes, embed_model=embedder)):
        with pytest.raises(starchat.ContextLengthError, match=message):
            embed(nodes)
    with pytest.raises(starchat.ContextLengthError, match=message):
        await embedder.acall(nodes)


async def test_cancelling_ends_the_computation(embedder: StarChatEmbedding) -> None:
    stats = embedder.engine.stats
    task = asyncio.create_task(embedder.aget_text_embedding_batch(["sort a list " * 300] * 64))
    assert await eventually(lambda: stats()["running"] > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await eventually(lambda: stats()["running"] + stats()["waiting"] == 0)


def test_construction_loads_nothing(tmp_path: Path) -> None:
    missing = StarChatEmbedding(model_path=tmp_path / "no.bin")
    assert missing.to_payload()["model_path"].endswith("no.bin")
    with pytest.raises(starchat.FileAccessError, match=r"no\.bin"):
        missing.get_text_embedding("a")
    with pytest.raises(ValueError, match="n_batch"):
        StarChatEmbedding(n_batch=8)


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_copies_embed_alike(embedder: StarChatEmbedding, used: bool) -> None:
    if used:
        embedder.get_text_embedding("a")
    data = pickle.dumps(embedder)
    assert len(data) < 20_000
    for twin in (
        pickle.loads(data),
        copy.deepcopy(embedder),
        StarChatEmbedding.from_dict(embedder.to_dict()),
        StarChatEmbedding.from_json(embedder.to_json()),
    ):
        assert twin.get_text_embedding("a") == embedder.get_text_embedding("a")


def test_observers_hear_of_it(events: Any) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    embedder = StarChatEmbedding(callback_manager=CallbackManager([debug]))
    embedder.get_text_embedding_batch(TEXTS)
    assert events.names() == ["EmbeddingStartEvent", "EmbeddingEndEvent"]
    assert len(debug.get_event_pairs(CBEventType.EMBEDDING)) == 1


async def test_index_finds_a_text_by_itself(settings: Any, embedder: StarChatEmbedding) -> None:
    nodes = [TextNode(text=text) for text in TEXTS]
    index = VectorStoreIndex(nodes, embed_model=embedder)
    retriever = index.as_retriever(similarity_top_k=2)
    for text in TEXTS:
        for found in (retriever.retrieve(text), await retriever.aretrieve(text)):
            assert found[0].node.get_content() == text
            assert found[0].score == pytest.approx(1.0, abs=1e-5)


def test_the_distribution_has_its_version_and_its_license() -> None:
    found = metadata.distribution("llama-index-embeddings-starchat")
    assert "__version__" in package.__all__
    assert found.version == package.__version__
    assert [file.name for file in found.files or () if file.name == "LICENSE"]
    assert not [need for need in found.requires or () if "llama-index-llms" in need]
