"""The fields of the three models: what they accept, what caches and traces see of them."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import ModelProfile

from langchain_starchat import ChatStarChat, StarChatEmbeddings, StarChatLLM
from random_file import write_random_file
from starchat import (
    FileAccessError,
    SamplingParams,
    StarChat,
)

QUESTION = "How do I sort a list in Python?"


@pytest.fixture
def loads_seen(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that called StarChat.load."""
    seen: list[threading.Thread] = []
    load = StarChat.load

    def spy(*args: Any, **kwargs: Any) -> StarChat:
        seen.append(threading.current_thread())
        time.sleep(0.01)
        return load(*args, **kwargs)

    monkeypatch.setattr(StarChat, "load", spy)
    return seen


def test_every_sampling_parameter_is_a_field() -> None:
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    assert names <= set(ChatStarChat.model_fields)
    assert all(ChatStarChat.model_fields[name].default is None for name in names)


def test_arguments_of_remote_models_are_taken_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="api_key, timeout has no effect"):
        model = ChatStarChat(timeout=3, api_key="x", top_k=7)  # type: ignore[call-arg]
    assert model.top_k == 7


def test_a_missing_file_is_told_at_the_first_use(tmp_path: Path) -> None:
    model = ChatStarChat(model_path=str(tmp_path / "absent.bin"))
    with pytest.raises(FileAccessError, match=r"absent\.bin"):
        model.invoke(QUESTION)


def test_a_cache_keeps_models_and_parameters_apart(tmp_path: Path) -> None:
    file = write_random_file(tmp_path / "tiny.bin")
    cache = InMemoryCache()

    def ask(fields: Any, call: Any) -> None:
        model = ChatStarChat(model_path=str(file), cache=cache, max_tokens=6, **fields)
        model.invoke("Hi", **call)

    variants: list[tuple[Any, Any]] = [
        ({"temperature": 0}, {}),
        ({"temperature": 1.0}, {}),
        ({"temperature": 0}, {"top_k": 3}),
        ({"temperature": 0}, {"stop": ["x"]}),
        ({"temperature": 0, "stop": ["y"]}, {}),
        ({"temperature": 0, "n_ctx": 80}, {}),
    ]
    for n_entries, variant in enumerate(variants, 1):
        ask(*variant)
        ask(*variant)
        assert len(cache._cache) == n_entries
    write_random_file(file, seed=2)  # another model under the same name
    ask(*variants[0])
    assert len(cache._cache) == len(variants) + 1


def test_construction_loads_nothing(loads_seen: list[threading.Thread], tmp_path: Path) -> None:
    file = write_random_file(tmp_path / "tiny.bin")
    own = StarChat.load(file).info.n_ctx
    loads_seen.clear()
    for n_ctx, n_told in ((None, own), (own // 2, own // 2), (own, own)):
        model = ChatStarChat(model_path=file, n_ctx=n_ctx, max_tokens=own // 4)
        assert model.profile is not None
        assert model.profile["max_input_tokens"] == n_told
        assert model.profile["max_output_tokens"] == own // 4
        assert repr(model) and model._identifying_params
    assert not loads_seen


def test_the_profile_tells_no_context_that_loading_refuses(tmp_path: Path) -> None:
    file = write_random_file(tmp_path / "tiny.bin")
    broken = tmp_path / "broken.bin"
    broken.write_bytes(file.read_bytes()[:40])
    missing = tmp_path / "absent.bin"
    for path, n_ctx in ((missing, None), (missing, 512), (broken, None), (file, 10**6), (file, 0)):
        profile = ChatStarChat(model_path=path, n_ctx=n_ctx).profile
        assert profile is not None
        assert "max_input_tokens" not in profile and "max_output_tokens" not in profile


def test_the_profile_says_all_that_can_be_said() -> None:
    profile = ChatStarChat().profile
    assert profile is not None
    untold = {"status", "release_date", "last_updated", "reasoning_effort_default"}
    assert set(profile) == ModelProfile.__annotations__.keys() - untold
    for name, said in profile.items():
        if "image" in name or "audio" in name or "video" in name or "pdf" in name:
            assert said is False


def test_a_profile_of_the_callers_own_stays(tmp_path: Path) -> None:
    file = write_random_file(tmp_path / "tiny.bin")
    model = ChatStarChat(model_path=file, profile={"max_input_tokens": 99}, max_tokens=2)
    model.invoke("Hi")
    assert model.profile == {"max_input_tokens": 99}


def test_traces_name_model_and_parameters() -> None:
    model = ChatStarChat(temperature=0.5, max_tokens=9, stop=["a"])
    assert model._get_ls_params() == {
        "ls_provider": "starchat",
        "ls_model_type": "chat",
        "ls_model_name": "starchat-nano",
        "ls_temperature": 0.5,
        "ls_max_tokens": 9,
        "ls_stop": ["a"],
    }
    assert model._get_ls_params(stop=["b"], temperature=0)["ls_stop"] == ["b"]


def test_traces_name_the_model_of_completions() -> None:
    params = StarChatLLM(temperature=0.5, stop=["a"])._get_ls_params()
    assert params["ls_provider"] == "starchat"
    assert params["ls_model_type"] == "llm"
    assert params["ls_model_name"] == "starchat-nano"
    assert params["ls_stop"] == ["a"]


def test_embeddings_have_no_fields_of_replies(tmp_path: Path) -> None:
    file = write_random_file(tmp_path / "tiny.bin")
    embeddings = StarChatEmbeddings(model_path=file)
    assert len(embeddings.embed_query("a")) == StarChat.load(file).info.n_embd
    with pytest.raises(ValueError, match="StarChatEmbeddings has no argument 'temperature'"):
        StarChatEmbeddings(temperature=0)  # type: ignore[call-arg]
