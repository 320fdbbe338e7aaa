"""StarChat as a LlamaIndex LLM keeps the contract, and what only StarChat promises."""

import asyncio
import json
import threading
import time
import warnings
from dataclasses import fields
from importlib import metadata
from typing import Any

import pytest
from llama_index.core import Document, SummaryIndex
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.extractors import TitleExtractor
from llama_index.core.llms import MessageRole
from llama_index.core.prompts import PromptTemplate
from llama_index.llms import starchat as package
from llama_index.llms.starchat import StarChat

import starchat
from calling_contract import ADD, CallingContract
from llm_contract import (
    CHATS,
    COMPLETIONS,
    QUESTION,
    WAYS,
    LLMContract,
    LLMUnderTest,
    ask,
    call,
    last,
)
from structured_contract import PREDICTING, City, StructuredContract, predict


class StarChatUnderTest(LLMUnderTest):
    endless = {"ignore_eos": True, "temperature": 0}  # noqa: RUF012
    invalid_request = starchat.InvalidRequestError

    def make(self, **settings: Any) -> StarChat:
        return StarChat(**settings)

    def n_running(self, llm: Any) -> int:
        stats = llm.engine.stats()
        return stats["running"] + stats["waiting"]

    def n_generated(self, llm: Any) -> int:
        return llm.engine.stats()["tokens"]

    def count_tokens(self, llm: Any, messages: Any, tools: Any = ()) -> int:
        return llm.engine.count_tokens(
            [mapping(message) for message in messages],
            [tool.metadata.to_openai_tool() for tool in tools],
        )


def mapping(message: ChatMessage) -> dict[str, Any]:
    """Return the message as starchat takes it."""
    turn: dict[str, Any] = {"role": message.role.value, "content": message.content or ""}
    if turn["role"] == "tool":
        turn["tool_call_id"] = message.additional_kwargs["tool_call_id"]
    if turn["role"] == "assistant":
        turn["tool_calls"] = [
            {"id": block.tool_call_id, "name": block.tool_name, "arguments": block.tool_kwargs}
            for block in message.blocks
            if isinstance(block, ToolCallBlock)
        ]
    return turn


class TestContract(StarChatUnderTest, LLMContract):
    pass


class TestCalling(StarChatUnderTest, CallingContract):
    pass


class TestStructured(StarChatUnderTest, StructuredContract):
    pass


@pytest.fixture
def llm() -> StarChat:
    return StarChat(temperature=0, max_tokens=16)


# ---- the engine beneath -----------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Calls of StarChat.load, each slowed down by a quarter of a second."""
    calls, load = [], starchat.StarChat.load

    def slow(*args: Any, **kwargs: Any) -> starchat.StarChat:
        calls.append((args, kwargs))
        time.sleep(0.25)
        return load(*args, **kwargs)

    monkeypatch.setattr(starchat.StarChat, "load", slow)
    return calls


def test_construction_loads_nothing(loads: list[Any]) -> None:
    start = time.perf_counter()
    for _ in range(200):
        StarChat(model_path="there/is/no/such.bin", temperature=0.5).to_payload()
    assert time.perf_counter() - start < 1.0
    assert not loads


@pytest.mark.parametrize("way", WAYS)
async def test_missing_file_is_told_on_first_use(way: str) -> None:
    llm = StarChat(model_path="there/is/no/such.bin")
    with pytest.raises(starchat.FileAccessError, match=r"such\.bin"):
        await call(llm, way, QUESTION)


def test_path_objects_are_paths(tmp_path: Any) -> None:
    assert StarChat(model_path=tmp_path / "a.bin").model_path == str(tmp_path / "a.bin")


def test_threads_load_once(loads: list[Any], llm: StarChat) -> None:
    threads = [threading.Thread(target=llm.complete, args=[QUESTION]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(loads) == 1


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith("a")])
async def test_loading_leaves_the_event_loop_free(
    loads: list[Any], llm: StarChat, way: str
) -> None:
    task = asyncio.create_task(ask(llm, way, QUESTION))
    n_ticks = 0
    while not loads or not task.done():
        await asyncio.sleep(0.01)
        n_ticks += 1
    assert len(loads) == 1
    assert n_ticks > 2  # a method that blocks lets the loop turn once


def test_settings_reach_the_engine() -> None:
    llm = StarChat(n_ctx=256, n_threads=1)
    assert (llm.engine.info.n_ctx, llm.engine.info.n_threads) == (256, 1)
    assert llm.metadata.context_window == 256
    assert llm.metadata.num_output == 64
    with pytest.raises(ValueError, match="frozen"):
        llm.n_ctx = 512


def test_metadata_is_the_engines(llm: StarChat) -> None:
    metadata = llm.metadata
    assert metadata.context_window == llm.engine.info.n_ctx
    assert metadata.num_output == 16
    assert StarChat().metadata.num_output == 512
    assert llm.engine.info.file.endswith(f"{metadata.model_name}.bin")
    assert metadata.is_function_calling_model


@pytest.mark.parametrize("n_ctx", [16, 512, None])
@pytest.mark.parametrize("max_tokens", [None, 8, 4096])
def test_num_output_leaves_half_of_the_context(n_ctx: int | None, max_tokens: int | None) -> None:
    metadata = StarChat(n_ctx=n_ctx, max_tokens=max_tokens).metadata
    assert 0 < metadata.num_output <= metadata.context_window // 2
    assert max_tokens != 8 or metadata.num_output == 8


def test_a_long_reply_leaves_room_for_a_query_engine(settings: Any) -> None:
    llm = StarChat(max_tokens=4096, ignore_eos=False, temperature=0)
    settings.tokenizer = llm.tokenizer
    index = SummaryIndex.from_documents([Document(text="sorted(x) sorts. " * 90)])
    assert str(index.as_query_engine(llm=llm).query(QUESTION))


def test_a_dict_becomes_an_llm_again() -> None:
    llm = StarChat(temperature=0, max_tokens=7, choice=["north"], logit_bias={3: 1.0})
    extractor = TitleExtractor.from_dict(json.loads(TitleExtractor(llm=llm).to_json()))
    assert type(extractor.llm) is StarChat
    assert extractor.llm.to_dict() == llm.to_dict()


def test_a_wrapper_of_queries_is_refused() -> None:
    wrapper = PromptTemplate("<|user|>\n{query_str}<|end|>\n<|assistant|>")
    with pytest.raises(ValueError, match="leave query_wrapper_prompt out"):
        StarChat(query_wrapper_prompt=wrapper)


def test_instances_share_one_engine(llm: StarChat) -> None:
    steps = llm.engine.stats()["steps"]
    StarChat().complete(QUESTION, max_tokens=4)
    assert llm.engine.stats()["steps"] > steps


# ---- arguments --------------------------------------------------------------------------------


def test_every_sampling_parameter_is_a_field() -> None:
    names = {field.name for field in fields(starchat.SamplingParams)}
    assert names <= StarChat.model_fields.keys()
    assert all(StarChat.model_fields[name].default is None for name in names)


@pytest.mark.parametrize("as_field", [True, False], ids=["field", "argument"])
def test_every_sampling_parameter_arrives(monkeypatch: pytest.MonkeyPatch, as_field: bool) -> None:
    options: dict[str, Any] = {
        "max_tokens": 3,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "repetition_window": 64,
        "logit_bias": {7: -1.0},
        "seed": 11,
        "stop": ["###"],
        "stop_token_ids": [5],
        "min_tokens": 2,
        "ignore_eos": True,
        "logprobs": 2,
        "schema_limits": {"string": 9},
        "speculation": False,
    }
    assert options.keys() == {field.name for field in fields(starchat.SamplingParams)}
    seen: list[dict[str, Any]] = []
    stream_chat = starchat.StarChat.stream_chat

    def spy(self: Any, messages: Any, **sampling: Any) -> Any:
        seen.append(sampling)
        return stream_chat(self, messages, **sampling)

    monkeypatch.setattr(starchat.StarChat, "stream_chat", spy)
    if as_field:
        StarChat(**options).complete(QUESTION)
    else:
        StarChat(temperature=0).complete(QUESTION, **options)
    assert seen == [options]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("context_window", "n_ctx"),
        ("num_ctx", "n_ctx"),
        ("max_new_tokens", "max_tokens"),
        ("num_output", "max_tokens"),
        ("max_completion_tokens", "max_tokens"),
        ("model_name", "model_path"),
        ("repeat_penalty", "repetition_penalty"),
        ("temprature", "temperature"),
    ],
)
def test_names_of_other_llms_get_a_hint(name: str, ours: str) -> None:
    with pytest.raises(
        ValueError, match=f"StarChat has no argument '{name}': did you mean '{ours}'"
    ):
        StarChat(**{name: 1})


def test_model_is_another_name_of_model_path() -> None:
    assert StarChat(model="here.bin").model_path == "here.bin"
    with pytest.raises(ValueError, match="are one argument"):
        StarChat(model="here.bin", model_path="there.bin")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wheels", ""),
        ("model_kwargs", ": give what it holds as arguments of their own"),
        ("n_batch", ": leave it out, it has no effect here"),
        ("local_files_only", ": the environment's HF_HUB_OFFLINE=1 does it"),
        ("revision", ": write it into the name, as OWNER/REPO@REVISION"),
    ],
)
def test_an_unknown_name_is_refused(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"StarChat has no argument '{name}'{hint} "):
        StarChat(**{name: {}})


async def test_seed_repeats_and_none_does_not() -> None:
    llm = StarChat(temperature=5.0, top_k=0, top_p=1.0, max_tokens=24, ignore_eos=True, seed=7)
    answers = [(await last(llm, way, QUESTION)) for way in ("complete", "acomplete")]
    fresh = llm.complete(QUESTION, seed=None)
    assert answers[0].text == answers[1].text != fresh.text


@pytest.mark.parametrize("way", WAYS)
async def test_stop_string_ends_the_answer(llm: StarChat, way: str) -> None:
    whole = llm.complete(QUESTION).text
    stop = whole[4:7]
    response = await last(llm, way, QUESTION, stop=stop)
    text = response.text if way in COMPLETIONS else response.message.content
    assert text == whole[: whole.index(stop)]
    assert response.raw["finish_reason"] == "stop"


@pytest.mark.parametrize("way", WAYS)
async def test_logprobs_of_every_token(llm: StarChat, way: str) -> None:
    responses = await ask(llm, way, QUESTION, logprobs=3, max_tokens=6)
    tokens = [token for response in responses for token in response.logprobs or ()]
    token_ids = [id for response in responses for id in response.raw["token_ids"]]
    assert len(tokens) == len(token_ids) == responses[-1].raw["usage"]["completion_tokens"]
    assert all(token[0].logprob <= 0 and 1 <= len(token) <= 4 for token in tokens)
    assert all(bytes(each.bytes).decode() == each.token for token in tokens for each in token)


@pytest.mark.parametrize("way", WAYS)
async def test_too_long_a_prompt_is_refused_at_the_call(llm: StarChat, way: str) -> None:
    n_ctx = llm.metadata.context_window
    with pytest.raises(starchat.ContextLengthError, match="the context holds"):
        await call(llm, way, "sort! " * n_ctx)


# ---- messages and prompts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "same_as"), [("developer", "system"), ("chatbot", "assistant"), ("model", "assistant")]
)
def test_other_names_of_roles(llm: StarChat, role: str, same_as: str) -> None:
    def ask_as(name: str) -> str | None:
        turn = ChatMessage("Be brief.", role=MessageRole(name))
        return llm.chat([turn, ChatMessage(QUESTION)]).message.content

    assert ask_as(role) == ask_as(same_as)


@pytest.mark.parametrize("way", CHATS)
async def test_roles_and_blocks_that_cannot_be_served(llm: StarChat, way: str) -> None:
    with pytest.raises(starchat.InvalidRequestError, match=r"messages\[1\]: a tool mess"):
        await call(llm, way, [ChatMessage(QUESTION), ChatMessage("42", role="tool")])
    picture = ChatMessage([TextBlock(text="What is it?"), ImageBlock(image=b"GIF89a")])
    with pytest.raises(starchat.InvalidRequestError, match=r"messages\[0\]: .* holds a ImageBlock"):
        await call(llm, way, [picture])
    with pytest.raises(starchat.InvalidRequestError, match=r"messages\[0\]: expected a ChatMess"):
        await call(llm, way, [{"role": "user", "content": QUESTION}])


def test_text_blocks_are_one_text(llm: StarChat) -> None:
    blocks = ChatMessage([TextBlock(text="How do I"), TextBlock(text="sort?")])
    assert (
        llm.chat([blocks]).message.content
        == llm.chat([ChatMessage("How do I\nsort?")]).message.content
    )


def test_generated_ids_may_come_back(llm: StarChat) -> None:
    first = llm.chat([ChatMessage(QUESTION)])
    ids = first.raw["token_ids"]
    assert not first.message.additional_kwargs  # LlamaIndex prints these into prompts
    kept = ChatMessage(
        first.message.content, role="assistant", additional_kwargs={"token_ids": ids}
    )
    second = llm.chat([ChatMessage(QUESTION), kept, ChatMessage("And in reverse?")])
    expected = llm.engine.count_tokens(
        [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": first.message.content, "token_ids": ids},
            {"role": "user", "content": "And in reverse?"},
        ]
    )
    assert second.raw["usage"]["prompt_tokens"] == expected


@pytest.mark.parametrize("way", COMPLETIONS)
@pytest.mark.parametrize("option", [{"tools": []}, {"tool_choice": "any"}], ids=str)
async def test_completions_know_no_tools(llm: StarChat, way: str, option: dict[str, Any]) -> None:
    for formatted in (True, False):
        with pytest.raises(starchat.InvalidRequestError, match="use the chat methods"):
            await call(llm, way, QUESTION, formatted=formatted, **option)


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_formatted_prompt_is_raw(llm: StarChat, way: str) -> None:
    response = await last(llm, way, "def add(a, b):", formatted=True)
    expected = llm.engine.complete("def add(a, b):", temperature=0, max_tokens=16)
    assert response.text == expected.text
    assert response.raw["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_control_tokens_count_only_where_allowed(llm: StarChat, way: str) -> None:
    prompt = f"<|system|>\n<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>"
    n_template = llm.engine.count_tokens([{"role": "user", "content": QUESTION}])
    n_text = len(llm.engine.tokenize(prompt))
    assert n_template < n_text
    plain = await last(llm, way, prompt, formatted=True, allow_special=False)
    special = await last(llm, way, prompt, formatted=True, allow_special=True)
    counts = [response.raw["usage"]["prompt_tokens"] for response in (plain, special)]
    assert counts == [n_text, n_template]
    with pytest.raises(starchat.InvalidRequestError, match="allow_special"):
        await call(llm, way, QUESTION, allow_special=True)  # a user turn is never parsed


CARD = f"<|system|>\n<|end|>\n<|user|>\n{QUESTION}<|end|>\n<|assistant|>"


def n_prompt_tokens(response: Any) -> int:
    return int(response.raw["usage"]["prompt_tokens"])


@pytest.mark.parametrize("way", COMPLETIONS)
@pytest.mark.parametrize("formatted", [True, False])
async def test_a_framed_prompt_is_answered(llm: StarChat, way: str, formatted: bool) -> None:
    expected = llm.engine.chat(
        [{"role": "user", "content": QUESTION}], temperature=0, max_tokens=16
    )
    response = await last(llm, way, CARD, formatted=formatted)
    assert response.text == "\n" + expected.text
    assert n_prompt_tokens(response) == expected.usage.prompt_tokens


@pytest.mark.parametrize("way", COMPLETIONS)
@pytest.mark.parametrize("by_field", [True, False])
async def test_allow_special_is_a_field_and_an_option(
    llm: StarChat, way: str, by_field: bool
) -> None:
    async def n_tokens(prompt: str, allow_special: Any, formatted: bool) -> int:
        if by_field:
            fields = {"allow_special": allow_special, "temperature": 0, "max_tokens": 2}
            return n_prompt_tokens(await last(StarChat(**fields), way, prompt, formatted=formatted))
        options = {"allow_special": allow_special, "formatted": formatted}
        return n_prompt_tokens(await last(llm, way, prompt, **options))

    tokenize = llm.engine.tokenize
    for value in (True, False, ["<|user|>"]):
        for prompt in (CARD, "a <|user|> b"):
            assert await n_tokens(prompt, value, True) == len(tokenize(prompt, value))
    as_turn = llm.engine.count_tokens([{"role": "user", "content": CARD}])
    assert await n_tokens(CARD, False, False) == as_turn
    assert await n_tokens(CARD, True, False) == len(tokenize(CARD, True))


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_a_framed_prompt_below_a_system_prompt_is_a_user_turn(
    llm: StarChat, way: str
) -> None:
    llm.system_prompt = "Be brief."
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": CARD}]
    with pytest.warns(starchat.ControlTokenWarning, match="because of system_prompt"):
        response = await last(llm, way, CARD)
    assert n_prompt_tokens(response) == llm.engine.count_tokens(messages)
    response = await last(llm, way, CARD, allow_special=True)
    assert n_prompt_tokens(response) == len(llm.engine.tokenize(CARD, True))


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_an_unframed_control_token_is_told(llm: StarChat, way: str) -> None:
    with pytest.warns(starchat.ControlTokenWarning, match="allow_special=True"):
        response = await last(llm, way, "a <|user|> b", formatted=True)
    assert n_prompt_tokens(response) == len(llm.engine.tokenize("a <|user|> b"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages_to_prompt", lambda messages: "Please: <|user|>\nWhy?<|end|>\n"),
        ("completion_to_prompt", lambda prompt: f"Q: <|user|> {prompt}"),
    ],
)
def test_a_template_that_spells_control_tokens_as_text_warns_once(field: str, value: Any) -> None:
    own = StarChat(max_tokens=1, **{field: value})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            own.complete(QUESTION) if "completion" in field else own.chat([ChatMessage(QUESTION)])
    assert [warning.category for warning in seen] == [starchat.ControlTokenWarning]
    assert "allow_special" in str(seen[0].message)


@pytest.mark.parametrize("allow_special", [None, True])
async def test_a_template_of_ones_own_is_read(llm: StarChat, allow_special: bool | None) -> None:
    def template(messages: Any) -> str:
        turns = (f"<|{message.role.value}|>\n{message.content}<|end|>\n" for message in messages)
        return "<|system|>\n<|end|>\n" + "".join(turns) + "<|assistant|>"

    own = StarChat(
        temperature=0, max_tokens=16, messages_to_prompt=template, allow_special=allow_special
    )
    expected = llm.chat([ChatMessage(QUESTION)])
    for way in set(WAYS) - set(COMPLETIONS):
        response = await last(own, way, QUESTION)
        assert response.message.content == f"\n{expected.message.content}"
        assert n_prompt_tokens(response) == n_prompt_tokens(expected)


@pytest.mark.parametrize("way", COMPLETIONS)
async def test_system_prompt_precedes_a_prompt(llm: StarChat, way: str) -> None:
    llm.system_prompt = "Be brief."
    expected = llm.chat([ChatMessage("Be brief.", role="system"), ChatMessage(QUESTION)])
    response = await last(llm, way, QUESTION)
    assert response.text == expected.message.content
    assert response.raw["usage"] == expected.raw["usage"]


async def test_own_prompt_functions_replace_the_template() -> None:
    llm = StarChat(
        temperature=0,
        max_tokens=8,
        messages_to_prompt=lambda messages: "# " + " ".join(m.content for m in messages),
        completion_to_prompt=lambda prompt: f"# {prompt}",
    )
    expected = llm.engine.complete(f"# {QUESTION}", temperature=0, max_tokens=8)
    for way in WAYS:
        response = await last(llm, way, QUESTION)
        text = response.text if way in COMPLETIONS else response.message.content
        assert text == expected.text, way
        assert response.raw["usage"]["prompt_tokens"] == expected.usage.prompt_tokens


@pytest.mark.parametrize("way", PREDICTING)
async def test_own_template_gets_models_by_schema(way: str) -> None:
    llm = StarChat(
        temperature=0,
        max_tokens=300,
        messages_to_prompt=lambda messages: "# " + " ".join(m.content for m in messages),
    )
    assert not llm.metadata.is_function_calling_model  # it has no place for tools
    prompt = PromptTemplate("Tell me about {city}.")
    assert type((await predict(llm, way, City, prompt, city="Rome"))[-1]) is City
    with pytest.raises(starchat.InvalidRequestError, match="tools: a template of your own cannot"):
        await llm.achat_with_tools([ADD], QUESTION)


# ---- inside LlamaIndex ------------------------------------------------------------------------


def test_settings_take_model_and_tokenizer(llm: StarChat, settings: Any) -> None:
    settings.llm = llm
    settings.tokenizer = llm.tokenizer
    assert settings.llm is llm
    assert settings.tokenizer("naïve 🙂") == llm.engine.tokenize("naïve 🙂")
    helper = settings.prompt_helper
    assert (helper.context_window, helper.num_output) == (llm.metadata.context_window, 16)
    text = "x = 1\n" * 4000
    (fits,) = helper.truncate(PromptTemplate("Explain {context_str}"), [text], llm=llm)
    assert 0 < len(llm.tokenizer(fits)) < llm.metadata.context_window - 16
    llm.complete(f"Explain {fits}")


# ---- the distribution -------------------------------------------------------------------------


def test_the_distribution_has_its_version_and_its_license() -> None:
    found = metadata.distribution("llama-index-llms-starchat")
    assert "__version__" in package.__all__
    assert found.version == package.__version__
    assert [file.name for file in found.files or () if file.name == "LICENSE"]
