"""StarChatEmbeddings: LangChain's standard suites, and what it does with texts and errors."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_starchat import ContextOverflow, StarChatEmbeddings
from starchat import InvalidRequestError, StarChat
from support.tiny_model import write_tiny

TEXTS = ["sort a list", "read a file\n", "🙂", "sort a list"]


class TestUnit(EmbeddingsUnitTests):
    """Construction."""

    embeddings_class = StarChatEmbeddings
    embedding_model_params: dict[str, Any] = {}  # noqa: RUF012 (a property of the suite)


class TestIntegration(EmbeddingsIntegrationTests):
    """Queries and documents, sync and async."""

    embeddings_class = StarChatEmbeddings
    embedding_model_params: dict[str, Any] = {}  # noqa: RUF012


async def test_every_way_gives_the_vectors_of_the_engine(nano: StarChat) -> None:
    embeddings = StarChatEmbeddings()
    expected = nano.embed(TEXTS).tolist()
    assert embeddings.embed_documents(TEXTS) == expected
    assert [embeddings.embed_query(text) for text in TEXTS] == expected
    assert await embeddings.aembed_documents(TEXTS) == expected
    assert await asyncio.gather(*map(embeddings.aembed_query, TEXTS)) == expected
    assert embeddings.embed_documents([]) == await embeddings.aembed_documents([]) == []


async def test_a_vector_store_around_it(nano: StarChat) -> None:
    store = InMemoryVectorStore.from_texts(TEXTS[:3], StarChatEmbeddings())
    for text in TEXTS[:3]:
        (found,) = store.similarity_search(text, k=1)
        assert found.page_content == text
        (found,) = await store.asimilarity_search(text, k=1)
        assert found.page_content == text


async def test_texts_that_have_no_vector_say_so(nano: StarChat) -> None:
    embeddings = StarChatEmbeddings()
    with pytest.raises(ContextOverflow):
        embeddings.embed_query("word " * nano.info.n_ctx)
    with pytest.raises(ContextOverflow):
        await embeddings.aembed_query("word " * nano.info.n_ctx)
    with pytest.raises(InvalidRequestError):
        embeddings.embed_documents(["a", ""])


def test_fields_are_those_of_a_model_that_does_not_reply(tmp_path: Path) -> None:
    file = write_tiny(tmp_path / "tiny.bin").path
    embeddings = StarChatEmbeddings(model_path=file)
    assert len(embeddings.embed_query("a")) == StarChat.load(file).info.n_embd
    with pytest.raises(ValueError, match="StarChatEmbeddings has no argument 'temperature'"):
        StarChatEmbeddings(temperature=0)  # type: ignore[call-arg]
