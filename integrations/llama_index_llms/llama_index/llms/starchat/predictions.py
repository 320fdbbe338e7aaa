"""predict and its variants: the reply follows what the prompt's output parser reads.

Selectors, question generators and evaluators of LlamaIndex ask in this way. A parser that is not
known here gets a free reply, as from every LLM.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import aclosing, closing, suppress
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.instrumentation.events.llm import LLMPredictEndEvent, LLMPredictStartEvent
from llama_index.core.llms.llm import dispatcher
from llama_index.core.output_parsers import PydanticOutputParser, SelectionOutputParser
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.question_gen.output_parser import SubQuestionOutputParser
from llama_index.core.types import BaseOutputParser, TokenAsyncGen, TokenGen
from llama_index.llms.starchat.structured import Options, StructuredByCalls, text_schema
from llama_index.llms.starchat.tools import check_whole

# What the parsers leave open is bounded, so that a reply ends; without "`": the parser of
# questions cuts its text at ```json.
_SENTENCE = {"type": "string", "pattern": "^[^`]{1,300}$"}
_MOST_QUESTIONS = 5


class ParsablePredictions(StructuredByCalls):
    """An LLM whose predictions its caller can parse."""

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Return the reply; raise CutCallError where it is cut and a parser waits for it."""
        options = self._prediction_options(prompt, prompt_args)
        return self._predicted(self.chat(**options), options)

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Return the reply; errors as those of `predict`."""
        options = self._prediction_options(prompt, prompt_args)
        return self._predicted(await self.achat(**options), options)

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """Stream the reply's text, which the prompt's output parser reads when it is whole."""
        self._refuse_own_parser()
        options = self._prediction_options(prompt, prompt_args)
        responses = self.stream_chat(**options)

        def texts() -> TokenGen:
            with closing(responses):
                for response in responses:
                    yield response.delta or ""
                _check(response, options)

        return texts()

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Stream the reply's text, which the prompt's output parser reads when it is whole."""
        self._refuse_own_parser()
        options = self._prediction_options(prompt, prompt_args)
        responses = await self.astream_chat(**options)

        async def texts() -> TokenAsyncGen:
            async with aclosing(responses):
                async for response in responses:
                    yield response.delta or ""
                _check(response, options)

        return texts()

    def _prediction_options(self, prompt: BasePromptTemplate, prompt_args: Options) -> Options:
        """Return what the chat methods are called with."""
        dispatcher.event(LLMPredictStartEvent(template=prompt, template_args=prompt_args))
        self._log_template_data(prompt, **prompt_args)
        schema = _schema(prompt.output_parser or self.output_parser, prompt.kwargs | prompt_args)
        options = {"json_schema": schema} if schema else {}
        return {"messages": self._get_messages(prompt, **prompt_args), **options}

    def _predicted(self, response: ChatResponse, options: Options) -> str:
        _check(response, options)
        output = self._parse_output(response.message.content or "")
        dispatcher.event(LLMPredictEndEvent(output=output))
        return output

    def _refuse_own_parser(self) -> None:
        if self.output_parser:  # as every LLM does, but before anything is computed
            raise NotImplementedError("Output parser is not supported for streaming.")


def _check(response: ChatResponse, options: Options) -> None:
    if "json_schema" in options:
        check_whole(response, is_parsed=True)


def _schema(parser: BaseOutputParser | None, prompt_args: Mapping[str, Any]) -> Options | None:
    """Return the JSON Schema of what a parser reads, None where it is not known."""
    if isinstance(parser, PydanticOutputParser):
        return text_schema(parser.output_cls)
    if isinstance(parser, SelectionOutputParser):
        n_choices, several = prompt_args.get("num_choices"), prompt_args.get("max_outputs")
        number: Options = {"type": "integer", "minimum": 1}
        if isinstance(n_choices, int):
            number["maximum"] = n_choices
        return _objects(several or 1, choice=number, reason=_SENTENCE)
    if isinstance(parser, SubQuestionOutputParser):
        name: Options = {"type": "string"}
        with suppress(KeyError, TypeError, ValueError):  # a template of another form
            name["enum"] = list(json.loads(prompt_args["tools_str"])) or [""]
        questions = _objects(_MOST_QUESTIONS, sub_question=_SENTENCE, tool_name=name)
        return _object(items=questions)
    return None


def _objects(n_most: int, **properties: Any) -> Options:
    return {"type": "array", "minItems": 1, "maxItems": n_most, "items": _object(**properties)}


def _object(**properties: Any) -> Options:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
