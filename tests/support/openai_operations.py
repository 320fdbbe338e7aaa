"""The operations of OpenAI's API that the server has, as an OpenAPI document for tests.

Written from OpenAI's reference: what a request may have, and what an answer must have.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def optional(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def listed(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def held(required: dict[str, Schema], **others: Schema) -> Schema:
    """Return the schema of an object with these properties, of which the first must be there."""
    return {"type": "object", "properties": {**required, **others}, "required": [*required]}


def one_of(*values: Any) -> Schema:
    return {"enum": [*values]}


TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
WHOLE: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
ANY: Schema = {"type": "object"}
NOTHING: Schema = {"type": "null"}

FUNCTION = held({"name": TEXT}, description=TEXT, parameters=ANY, strict=optional(FLAG))
TOOL = held({"type": one_of("function"), "function": FUNCTION})
CALLED = held({"name": TEXT, "arguments": TEXT})
CALL = held({"id": TEXT, "type": one_of("function"), "function": CALLED})
CONTENT = {"anyOf": [TEXT, listed(held({"type": one_of("text"), "text": TEXT}), minItems=1)]}
MESSAGE = {
    "anyOf": [
        held({"role": one_of("system", "developer", "user"), "content": CONTENT}, name=TEXT),
        held({"role": one_of("assistant")}, content=optional(CONTENT), refusal=optional(TEXT)),
    ]
}
STOP = {"anyOf": [TEXT, listed(TEXT, minItems=1, maxItems=4), NOTHING]}
SAMPLING = {
    "temperature": optional({"type": "number", "minimum": 0, "maximum": 2}),
    "top_p": optional({"type": "number", "minimum": 0, "maximum": 1}),
    "frequency_penalty": optional({"type": "number", "minimum": -2, "maximum": 2}),
    "presence_penalty": optional({"type": "number", "minimum": -2, "maximum": 2}),
    "logit_bias": optional(
        {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,3}$"},
            "additionalProperties": {"type": "integer", "minimum": -100, "maximum": 100},
        }
    ),
    "seed": optional({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}),
    "n": optional({"type": "integer", "minimum": 1, "maximum": 4}),
    "stop": STOP,
    "max_tokens": optional({"type": "integer", "minimum": 1, "maximum": 8}),
    "stream": optional(one_of(False)),
    "user": TEXT,
}
FORMAT = {
    "anyOf": [
        held({"type": one_of("text", "json_object")}),
        held(
            {
                "type": one_of("json_schema"),
                "json_schema": held({"name": TEXT, "schema": ANY}, strict=optional(FLAG)),
            }
        ),
    ]
}
USAGE = held(
    {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT},
    prompt_tokens_details=held({}, cached_tokens=COUNT),
)
LIKELY = {"token": TEXT, "logprob": NUMBER, "bytes": optional(listed(COUNT))}
LOGPROBS = held(
    {
        "content": optional(listed(held({**LIKELY, "top_logprobs": listed(held(LIKELY))}))),
        "refusal": optional(listed(held(LIKELY))),
    }
)
HEAD = {"id": TEXT, "created": WHOLE, "model": TEXT}

CHAT = held(
    {"messages": listed(MESSAGE, minItems=1, maxItems=4), "model": TEXT},
    **SAMPLING,
    max_completion_tokens=optional({"type": "integer", "minimum": 1, "maximum": 8}),
    logprobs=optional(FLAG),
    top_logprobs=optional({"type": "integer", "minimum": 0, "maximum": 20}),
    tools=listed(TOOL, maxItems=3),
    tool_choice={"anyOf": [one_of("none", "auto", "required"), TOOL]},
    parallel_tool_calls=FLAG,
    response_format=FORMAT,
    stream_options=optional(held({}, include_usage=FLAG)),
    store=optional(FLAG),
    metadata=optional({"type": "object", "additionalProperties": TEXT}),
    reasoning_effort=optional(TEXT),
    service_tier=optional(TEXT),
)
CHAT_ANSWER = held(
    {
        **HEAD,
        "object": one_of("chat.completion"),
        "choices": listed(
            held(
                {
                    "index": COUNT,
                    "finish_reason": one_of("stop", "length", "tool_calls"),
                    "logprobs": optional(LOGPROBS),
                    "message": held(
                        {
                            "role": one_of("assistant"),
                            "content": optional(TEXT),
                            "refusal": optional(TEXT),
                        },
                        tool_calls=listed(CALL),
                    ),
                }
            ),
            minItems=1,
        ),
    },
    usage=USAGE,
)
IDS = listed({"type": "integer", "minimum": 0, "maximum": 2_000}, minItems=1)
COMPLETION = held(
    {
        "model": TEXT,
        "prompt": {
            "anyOf": [TEXT, listed(TEXT, maxItems=3), IDS, listed(IDS, maxItems=3), NOTHING]
        },
    },
    **SAMPLING,
    best_of=optional({"type": "integer", "minimum": 1, "maximum": 5}),
    echo=optional(FLAG),
    logprobs=optional({"type": "integer", "minimum": 0, "maximum": 5}),
    suffix=optional(TEXT),
)
NUMBERS = listed(optional(NUMBER))
COMPLETION_ANSWER = held(
    {
        **HEAD,
        "object": one_of("text_completion"),
        "choices": listed(
            held(
                {
                    "index": COUNT,
                    "text": TEXT,
                    "finish_reason": one_of("stop", "length"),
                    "logprobs": optional(
                        held(
                            {},
                            tokens=listed(TEXT),
                            token_logprobs=NUMBERS,
                            top_logprobs=listed(optional(ANY)),
                            text_offset=listed(COUNT),
                        )
                    ),
                }
            ),
            minItems=1,
        ),
    },
    usage=USAGE,
)
EMBEDDING = held(
    {
        "input": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                listed({"type": "string", "minLength": 1}, minItems=1, maxItems=5),
                IDS,
                listed(IDS, minItems=1, maxItems=5),
            ]
        },
        "model": TEXT,
    },
    encoding_format=one_of("float", "base64"),
    dimensions={"type": "integer", "minimum": 1},
    user=TEXT,
)
EMBEDDING_ANSWER = held(
    {
        "object": one_of("list"),
        "model": TEXT,
        "data": listed(
            held(
                {
                    "object": one_of("embedding"),
                    "index": COUNT,
                    "embedding": {"anyOf": [TEXT, listed(NUMBER)]},
                }
            )
        ),
        "usage": held({"prompt_tokens": COUNT, "total_tokens": COUNT}),
    }
)
MODEL = held({"id": TEXT, "object": one_of("model"), "created": WHOLE, "owned_by": TEXT})
INPUT = {
    "anyOf": [
        TEXT,
        listed(
            held(
                {
                    "role": one_of("user", "assistant", "system", "developer"),
                    "content": {
                        "anyOf": [
                            TEXT,
                            listed(held({"type": one_of("input_text"), "text": TEXT}), minItems=1),
                        ]
                    },
                },
                type=one_of("message"),
            ),
            minItems=1,
            maxItems=4,
        ),
    ]
}
FLAT_TOOL = held(
    {"type": one_of("function"), "name": TEXT, "parameters": ANY, "strict": optional(FLAG)}
)
RESPONSE = held(
    {"model": TEXT, "input": INPUT},
    instructions=optional(TEXT),
    max_output_tokens=optional({"type": "integer", "minimum": 1, "maximum": 16}),
    temperature=SAMPLING["temperature"],
    top_p=SAMPLING["top_p"],
    tools=listed(FLAT_TOOL, maxItems=3),
    tool_choice={
        "anyOf": [
            one_of("none", "auto", "required"),
            held({"type": one_of("function"), "name": TEXT}),
        ]
    },
    parallel_tool_calls=optional(FLAG),
    top_logprobs=optional({"type": "integer", "minimum": 0, "maximum": 20}),
    store=optional(FLAG),
    stream=optional(one_of(False)),
    metadata=optional({"type": "object", "additionalProperties": TEXT}),
)
RESPONSE_ANSWER = held(
    {
        "id": TEXT,
        "object": one_of("response"),
        "created_at": NUMBER,
        "status": one_of("completed", "incomplete"),
        "error": NOTHING,
        "incomplete_details": optional(held({}, reason=one_of("max_output_tokens"))),
        "instructions": optional(TEXT),
        "metadata": ANY,
        "model": TEXT,
        "parallel_tool_calls": FLAG,
        "temperature": optional(NUMBER),
        "tool_choice": {"anyOf": [TEXT, ANY]},
        "tools": listed(ANY),
        "top_p": optional(NUMBER),
        "output": listed(
            {
                "anyOf": [
                    held(
                        {
                            "id": TEXT,
                            "type": one_of("message"),
                            "role": one_of("assistant"),
                            "status": one_of("completed", "incomplete"),
                            "content": listed(
                                held(
                                    {
                                        "type": one_of("output_text"),
                                        "text": TEXT,
                                        "annotations": listed(ANY),
                                        "logprobs": listed(held(LIKELY)),
                                    }
                                )
                            ),
                        }
                    ),
                    held(
                        {
                            "type": one_of("function_call"),
                            "call_id": TEXT,
                            "name": TEXT,
                            "arguments": TEXT,
                        }
                    ),
                ]
            }
        ),
    },
    usage=held(
        {
            "input_tokens": COUNT,
            "input_tokens_details": held({"cached_tokens": COUNT}),
            "output_tokens": COUNT,
            "output_tokens_details": held({"reasoning_tokens": COUNT}),
            "total_tokens": COUNT,
        }
    ),
)
ERROR = held(
    {
        "error": held(
            {"message": TEXT, "type": TEXT, "param": optional(TEXT), "code": optional(TEXT)}
        )
    }
)


def _operation(answer: Schema, body: Schema | None = None) -> Schema:
    def of(description: str, schema: Schema) -> Schema:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    operation: Schema = {"responses": {"200": of("OK", answer), "default": of("Error", ERROR)}}
    if body:
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


NAME = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
DOCUMENT: Schema = {
    "openapi": "3.1.0",
    "info": {"title": "OpenAI's API, as far as starchat serves it", "version": "1"},
    "paths": {
        "/chat/completions": {"post": _operation(CHAT_ANSWER, CHAT)},
        "/completions": {"post": _operation(COMPLETION_ANSWER, COMPLETION)},
        "/embeddings": {"post": _operation(EMBEDDING_ANSWER, EMBEDDING)},
        "/responses": {"post": _operation(RESPONSE_ANSWER, RESPONSE)},
        "/models": {"get": _operation(held({"object": one_of("list"), "data": listed(MODEL)}))},
        "/models/{model}": {"get": {**_operation(MODEL), "parameters": [NAME]}},
    },
}
