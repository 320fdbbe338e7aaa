"""Bodies of requests, as OpenAI's clients write them: declared for checks and the OpenAPI document.

An explicit null is the default. Fields that are not declared are ignored, and logged once by name.
What other servers' clients send beside OpenAI's fields is declared here too (top_k, regex …).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from ..fields import ECHOED, FIRST_ERROR, WHOLE, at_most, either
from ..settings import MOST_BIASES, MOST_CANDIDATES, MOST_LOGPROBS, MOST_REPLIES

MOST_PROMPTS = 128  # of a request to /v1/completions
_MOST_STOP = 256  # characters of a stop string
_MOST_LOGPROBS = 5  # of /v1/completions, as OpenAI has it


Integer = Annotated[int, WHOLE]
_Ids = Annotated[list[Integer], FIRST_ERROR]
_Texts = Annotated[list[str], FIRST_ERROR]
_Objects = Annotated[list[dict[str, Any]], FIRST_ERROR]
_ListOfIds = Annotated[list[_Ids], FIRST_ERROR]
_StopString = Annotated[str, Field(max_length=_MOST_STOP)]
Stop = Annotated[
    str | Annotated[list[_StopString], FIRST_ERROR] | None,
    either(f"a string or a list of them, of {_MOST_STOP} each"),
]
Prompts = Annotated[
    str | _Ids | _Texts | _ListOfIds | None,
    either("a string, a list of token ids, or a list of either"),
]


#: What is known and cannot be served: null in the document, and said with its name to who sends it.
Refused = Annotated[Any, WithJsonSchema({"type": "null"})]


class Form(BaseModel):
    """What all bodies have; `model_extra` has the fields that are not declared."""

    model_config = ConfigDict(
        strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )

    model: str | None = Field(
        None, description="Any name is served, unless the server is started with --strict-model."
    )
    user: str | None = None


class ReplyForm(Form):
    """How a reply is chosen: OpenAI's fields, and those of starchat with their own names."""

    stream: bool | None = None
    temperature: float | None = Field(None, description="0.2 by default, as on the model cards.")
    top_p: float | None = Field(None, description="0.95 by default; 0: the likeliest token.")
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: Integer | None = Field(
        None, description="-2**63 to 2**64 - 1; a negative one is that number plus 2**64."
    )
    logit_bias: Annotated[dict[str, float], at_most(MOST_BIASES)] | None = Field(
        None, description="Token id → what is added to its logit, -100 to 100; -100 bans it."
    )
    stop: Stop = None

    top_k: Integer | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repetition_window: Integer | None = None
    min_tokens: Integer | None = None
    ignore_eos: bool | None = None
    stop_token_ids: _Ids | None = None
    schema_limits: Annotated[dict[str, Integer], at_most(MOST_BIASES)] | None = None
    cache_salt: str | None = None

    json_schema: dict[str, Any] | Literal[True] | None = Field(
        None, description="A JSON Schema, or true for any object."
    )
    regex: str | None = None
    grammar: str | None = Field(None, description="Lark, or llama.cpp's GBNF.")
    choice: _Texts | None = None
    structured_outputs: dict[str, Any] | None = Field(
        None, description="vLLM's: one of json, regex, choice, grammar, json_object."
    )
    guided_json: dict[str, Any] | str | None = Field(None, description="As older vLLMs have it.")
    guided_regex: str | None = None
    guided_choice: _Texts | None = None
    guided_grammar: str | None = None


class StreamOptions(BaseModel):
    """What a stream has beside the reply."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class LlamaCppForm(ReplyForm):
    """What clients of llama.cpp ask to be told beside a reply."""

    stream_options: StreamOptions | None = None
    timings: bool | None = Field(None, description="Report times, in llama.cpp's form.")
    timings_per_token: bool | None = Field(None, description="As timings.")
    return_progress: bool | None = Field(
        None, description="Report how far the prompt is, in a stream: prompt_progress."
    )


class ChatForm(LlamaCppForm):
    """The body of /v1/chat/completions."""

    messages: _Objects = Field(min_length=1)
    max_tokens: Integer | None = None
    max_completion_tokens: Integer | None = Field(None, description="Wins over max_tokens.")
    n: Annotated[int, Field(ge=1, le=MOST_REPLIES), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), WHOLE] | None = None
    tools: _Objects | None = None
    tool_choice: Annotated[str | dict[str, Any] | None, either("a string or an object")] = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    continue_final_message: bool | None = Field(
        None, description="Go on with the assistant's message at the end, instead of a new turn."
    )

    audio: Refused = Field(None, description="Refused: this model writes text.")
    modalities: _Texts | None = Field(None, description="['text'], or refused.")
    web_search_options: Refused = Field(None, description="Refused.")
    moderation: Refused = Field(None, description="Refused.")
    functions: Refused = Field(None, description="Refused: use tools.")
    function_call: Refused = Field(None, description="Refused: use tool_choice.")


class CompletionForm(LlamaCppForm):
    """The body of /v1/completions."""

    prompt: Prompts = Field(
        None, description="Text, token ids, or a list of either; without one, <|endoftext|>."
    )
    suffix: str | None = Field(None, description="What follows the gap that the reply fills.")
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = Field(
        None, description="0: no reply, to score the prompt with echo and logprobs."
    )
    n: Annotated[int, Field(ge=1, le=MOST_REPLIES), WHOLE] | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_CANDIDATES), WHOLE] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LOGPROBS), WHOLE] | None = None
    response_format: dict[str, Any] | None = None
    allow_special: bool | _Texts | None = Field(
        None, description="Which control tokens count that the prompt spells out; docs/prompts.md."
    )
    parse_special: bool | _Texts | None = Field(None, description="As allow_special.")


class EmbeddingForm(Form):
    """The body of /v1/embeddings."""

    input: Annotated[
        str | _Ids | _Texts | _ListOfIds,
        either("a string, a list of token ids, or a list of either"),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = Field(
        None, description="The first so many numbers, scaled to length 1 again."
    )


class ResponseForm(ReplyForm):
    """The body of /v1/responses."""

    input: Annotated[str | _Objects | None, either("a string or a list of items")] = None
    instructions: str | None = None
    max_output_tokens: Integer | None = None
    tools: Annotated[_Objects, ECHOED] | None = None
    tool_choice: Annotated[str | dict[str, Any] | None, either("a string or an object"), ECHOED] = (
        None
    )
    parallel_tool_calls: bool | None = None
    text: Annotated[dict[str, Any], ECHOED] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS), WHOLE] | None = None
    include: _Texts | None = None
    metadata: Annotated[dict[str, Any], ECHOED] | None = None

    store: bool | None = Field(None, description="Answered with false: nothing is kept.")
    previous_response_id: str | None = Field(None, description="Refused: nothing is kept.")
    conversation: Refused = Field(None, description="Refused: nothing is kept.")
    background: bool | None = Field(None, description="true is refused.")
    prompt: Refused = Field(None, description="Refused: no prompts are kept.")
    moderation: Refused = Field(None, description="Refused.")
