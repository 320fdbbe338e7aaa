"""What the distribution holds beside its code, and the names that it exports."""

from __future__ import annotations

from importlib import metadata

import langchain_starchat


def test_it_exports_its_models_and_its_version() -> None:
    models = {"ChatStarChat", "StarChatEmbeddings", "StarChatLLM"}
    names = models | {"ContextOverflow", "CutReplyError", "__version__"}
    assert set(langchain_starchat.__all__) == names
    assert all(getattr(langchain_starchat, name) for name in names)


def test_it_has_its_version_and_its_license() -> None:
    found = metadata.distribution("langchain-starchat")
    assert found.version == langchain_starchat.__version__
    assert [file.name for file in found.files or () if file.name == "LICENSE"]
