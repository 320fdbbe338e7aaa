"""StarChatEmbeddings on the embedded model: its vectors, alone and in a store, and its errors."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_starchat import ContextOverflow, StarChatEmbeddings
from starchat import InvalidRequestError, StarChat

TEXTS = ["sort a list", "read a file\n", "🙂", "sort a list"]


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
