"""The fields of the three models: what they accept, what caches and traces see of them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import ModelProfile
from langchain_core.messages import HumanMessage

from langchain_starchat import ChatStarChat, StarChatEmbeddings, StarChatLLM
from random_file import write_random_file
from scripted_model import reply
from starchat import FileAccessError, InvalidRequestError, SamplingParams, StarChat
from starchat.sampling import CONSTRAINTS

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


FRAMED = "<|system|>\n<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>"


def test_counting_loads_no_weights(loads_seen: list[threading.Thread], tmp_path: Path) -> None:
    file = write_random_file(tmp_path / "tiny.bin")
    chat, llm = ChatStarChat(model_path=file), StarChatLLM(model_path=file)
    messages = [HumanMessage(FRAMED)]
    counts = [
        chat.get_num_tokens_from_messages(messages),
        chat.get_num_tokens(FRAMED),
        llm.get_num_tokens(FRAMED),
    ]
    assert not loads_seen
    usage = chat.invoke(messages, max_tokens=1).usage_metadata
    assert usage is not None and counts[0] == usage["input_tokens"]
    assert counts[1] == len(FRAMED)  # a message's text has no control tokens
    assert counts == [
        chat.get_num_tokens_from_messages(messages),
        chat.get_num_tokens(FRAMED),
        llm.get_num_tokens(FRAMED),
    ]


@pytest.mark.parametrize("allow_special", [None, True, False, ["<|user|>"]])
def test_a_completion_model_counts_what_a_call_reads(tmp_path: Path, allow_special: Any) -> None:
    file = write_random_file(tmp_path / "tiny.bin")
    llm = StarChatLLM(model_path=file, max_tokens=1, allow_special=allow_special)
    output = llm.generate([FRAMED]).llm_output
    assert output is not None
    assert llm.get_num_tokens(FRAMED) == output["token_usage"]["prompt_tokens"]


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


@pytest.mark.parametrize("cls", [ChatStarChat, StarChatLLM, StarChatEmbeddings])
def test_the_file_is_also_called_model(cls: Any) -> None:
    assert cls(model="dir/a.bin").model_path == "dir/a.bin"
    assert cls(model=Path("a.bin"), model_path=Path("a.bin")).model_name == "a.bin"
    assert cls(model="starchat-nano").model_path is None
    with pytest.raises(ValueError, match="model and model_path are one argument"):
        cls(model="a.bin", model_path="b.bin")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("max_completion_tokens", "max_tokens"),
        ("max_new_tokens", "max_tokens"),
        ("num_predict", "max_tokens"),
        ("num_ctx", "n_ctx"),
        ("context_window", "n_ctx"),
        ("num_thread", "n_threads"),
        ("model_name", "model_path"),
        ("stop_sequences", "stop"),
        ("repeat_penalty", "repetition_penalty"),
        ("temprature", "temperature"),
    ],
)
def test_other_names_are_told_ours(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"no argument '{name}': did you mean '{meant}'"):
        ChatStarChat(**{name: 1})


def test_a_saved_model_is_plain_data(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    file = write_random_file(tmp_path / "tiny.bin")
    for path in (None, file, tmp_path / "absent.bin"):
        llm = StarChatLLM(model_path=path, stop=["x"], logit_bias={1: 2.0}, choice=["a", "b"])
        llm.save(tmp_path / "llm.yaml")
        saved = yaml.safe_load((tmp_path / "llm.yaml").read_text())
        assert saved["_type"] == "starchat" and saved["choice"] == ["a", "b"]
        assert saved["model"] == llm.model_name


# ---- constraints and tools as fields --------------------------------------------------------

NOW = {"name": "now", "description": "The time.", "parameters": {"type": "object"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def asked(model: ChatStarChat, seen: Any, **call: Any) -> Any:
    model.invoke("Hi", **call)
    return seen.asked[-1][1]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ({}, {"choice": ["a", "b"]}),
        ({"regex": "x"}, {"regex": "x"}),
        ({"regex": None}, {"choice": ["a", "b"]}),
        ({"tools": [NOW]}, {}),
        ({"tools": [NOW], "tool_choice": "none"}, {"choice": ["a", "b"]}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": True}),
    ],
    ids=["none", "another", "None", "tools", "tools that are not called", "response format"],
)
def test_a_field_constrains_calls_that_bring_no_constraint(
    script: Callable[..., Any], call: Any, expected: Any
) -> None:
    model = script(reply("a"), reply("a"))
    given = asked(ChatStarChat(choice=["a", "b"]), model, **call)
    held = {name: given[name] for name in CONSTRAINTS if given.get(name) is not None}
    assert held == expected


def test_how_tools_are_called_is_a_field_too(script: Callable[..., Any]) -> None:
    model = script(*[reply("", [("now", {})])] * 4)
    llm = ChatStarChat(tool_choice="any", parallel_tool_calls=False)
    given = asked(llm, model, tools=[NOW])
    assert (given["tool_choice"], given["parallel_tool_calls"]) == ("any", False)
    given = asked(llm, model, tools=[NOW], tool_choice="auto", parallel_tool_calls=True)
    assert (given["tool_choice"], given["parallel_tool_calls"]) == ("auto", True)
    given = asked(llm, model)
    assert given.get("tool_choice") is None and "parallel_tool_calls" not in given


BEGUN: Any = [("human", QUESTION), ("ai", "You can")]


@pytest.mark.parametrize(
    ("field", "messages", "call", "expected"),
    [
        (None, BEGUN, {}, None),
        (None, BEGUN, {"continue_final_message": True}, True),
        (True, BEGUN, {}, True),
        (True, BEGUN, {"continue_final_message": False}, False),
        (True, BEGUN[:1], {}, None),
        (None, BEGUN[:1], {"continue_final_message": True}, True),  # which starchat refuses
    ],
)
def test_a_begun_answer_goes_on_where_a_call_or_a_field_says_so(
    script: Callable[..., Any], field: Any, messages: Any, call: Any, expected: Any
) -> None:
    model = script(*[reply("a")] * 2)
    llm = ChatStarChat(continue_final_message=field)
    llm.invoke(messages, **call)
    llm.bind(**call).invoke(messages)
    assert [options.get("continue_final_message") for _, options in model.asked] == [expected] * 2


def test_a_schema_stands_before_a_begun_answer(script: Callable[..., Any]) -> None:
    model = script(reply("{}"))
    llm = ChatStarChat(continue_final_message=True)
    llm.with_structured_output({"title": "T", "type": "object"}).invoke(BEGUN)
    ((dialogue, options),) = model.asked
    assert [turn["role"] for turn in dialogue] == ["system", "user", "assistant"]
    assert dialogue[0]["content"].startswith("Answer with JSON by this schema")
    assert options["continue_final_message"]


@pytest.mark.parametrize(
    ("tool", "kind"),
    [
        ({"type": "web_search_preview"}, "web_search_preview"),
        ({"type": "web_search_20250305", "name": "web_search"}, "web_search_20250305"),
        ({"type": "code_interpreter", "container": {"type": "auto"}}, "code_interpreter"),
        ({"type": "mcp", "server_label": "x", "server_url": "y"}, "mcp"),
        ({"google_search": {}}, "google_search"),
        ({"type": "bash_20250124", "name": "bash"}, "bash_20250124"),
        ({}, "None"),
    ],
)
def test_tools_of_a_provider_are_refused_with_a_sentence(tool: Any, kind: str) -> None:
    with pytest.raises(
        InvalidRequestError, match=rf"tools\[1\]: '?{kind}'? is no function: .*pass a"
    ):
        ChatStarChat().bind_tools([NOW, tool])


@pytest.mark.parametrize(
    "tool",
    [
        NOW,
        {"name": "now", "description": "The time."},
        {"type": "function", "function": {"name": "now"}},
        {"type": "function", "function": NOW},
        {"type": "function", **NOW},
        {"title": "now", "description": "The time.", **SCHEMA},
        {"name": "now", "description": "The time.", "input_schema": SCHEMA},
        {"type": "custom", "name": "now", "input_schema": SCHEMA},
        {"toolSpec": {"name": "now", "description": "", "inputSchema": {"json": SCHEMA}}},
    ],
)
def test_every_form_of_a_function_is_one(tool: Any) -> None:
    for strict in (None, True):
        bound: Any = ChatStarChat().bind_tools([tool], strict=strict)
        (made,) = bound.kwargs["tools"]
        assert made.get("function", made)["name"] == "now"


@pytest.mark.parametrize("path", ["a\0b", "a\udcff\ud800"], ids=["zero byte", "lone surrogate"])
@pytest.mark.parametrize("model", [ChatStarChat, StarChatLLM])
def test_a_name_that_no_file_can_have_is_a_file_access_error(model: type, path: str) -> None:
    with pytest.raises(FileAccessError, match="no file can have this name"):
        model(model_path=path).invoke("Hello")
    with pytest.raises(FileAccessError, match="no file can have this name"):
        next(model(model_path=path).stream("Hello"))
    with pytest.raises(FileAccessError, match="no file can have this name"):
        StarChatEmbeddings(model_path=path).embed_query("Hello")
