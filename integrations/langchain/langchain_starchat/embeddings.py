"""Texts in, vectors of length 1 out: the mean of a text's hidden states.

BM25 retrieves code better (docs/embeddings.md); these are for stores that need vectors.
"""

from __future__ import annotations

from langchain_core.embeddings import Embeddings

from langchain_starchat.errors import langchain_errors
from langchain_starchat.settings import ModelSettings
from starchat.model_settings import rows, rows_async


class StarChatEmbeddings(ModelSettings, Embeddings):
    """Vectors of texts by a StarChat model that runs in this process, on the CPU.

    StarChat was trained to continue text, not to embed it: similar texts get similar vectors
    only roughly, and BM25 retrieves better. Queries and documents are embedded in the same way,
    batched with all running replies.

    Setup:
        Install both packages from the repository. Without a file, the small demonstration model
        inside the `starchat` package computes the vectors.

        ```bash
        pip install . ./integrations/langchain
        ```

    Key init args:
        model_path: str | None
            A StarChat or StarCoder file, or a name of Hugging Face; None: the embedded model.
        n_ctx: int | None
            Tokens that one text may have.
        n_threads: int | None
            Threads that compute.

    Instantiate:
        ```python
        from langchain_starchat import StarChatEmbeddings

        embeddings = StarChatEmbeddings()
        ```

    Embed single text:
        ```python
        vector = embeddings.embed_query("sort a list")
        ```

    Embed multiple texts:
        ```python
        vectors = embeddings.embed_documents(["sort a list", "open a socket"])
        ```

    Async:
        ```python
        await embeddings.aembed_query("sort a list")
        await embeddings.aembed_documents(["sort a list", "open a socket"])
        ```
    """

    @langchain_errors()
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text; the texts are computed together."""
        return rows(self._model().embed(texts))

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each text; cancelling the task ends the computation."""
        with langchain_errors():
            model = await self._amodel()
            return await rows_async(await model.aembed(texts))

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        return (await self.aembed_documents([text]))[0]
