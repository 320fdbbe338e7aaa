"""predict and its variants: the reply follows what the prompt's output parser reads.

Selectors, question generators and evaluators of LlamaIndex ask in this way.
"""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation.events.llm import LLMPredictEndEvent, LLMPredictStartEvent
from llama_index.core.llms.llm import dispatcher
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import TokenAsyncGen, TokenGen
from llama_index.llms.starchat.parsers import ParsedDialogue, schema_read_by, schema_shown_in
from llama_index.llms.starchat.structured import Options, StructuredByCalls


class ParsablePredictions(StructuredByCalls):
    """An LLM whose predictions its caller can parse."""

    def predict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Return the reply; raise CutCallError where it is cut and a parser waits for it."""
        return self._predicted(self.chat(self._asked(prompt, prompt_args)))

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """Return the reply; errors as those of `predict`."""
        return self._predicted(await self.achat(self._asked(prompt, prompt_args)))

    def stream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenGen:
        """Stream the reply's text, which the prompt's output parser reads when it is whole."""
        self._refuse_own_parser()
        responses = self.stream_chat(self._asked(prompt, prompt_args))

        def texts() -> TokenGen:
            with closing(responses):
                for response in responses:
                    yield response.delta or ""

        return texts()

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """Stream the reply's text, which the prompt's output parser reads when it is whole."""
        self._refuse_own_parser()
        responses = await self.astream_chat(self._asked(prompt, prompt_args))

        async def texts() -> TokenAsyncGen:
            async with aclosing(responses):
                async for response in responses:
                    yield response.delta or ""

        return texts()

    def _asked(self, prompt: BasePromptTemplate, prompt_args: Options) -> list[ChatMessage]:
        """Return what a chat method is asked."""
        dispatcher.event(LLMPredictStartEvent(template=prompt, template_args=prompt_args))
        self._log_template_data(prompt, **prompt_args)
        messages = self._get_messages(prompt, **prompt_args)
        parser = prompt.output_parser or self.output_parser
        schema = schema_read_by(parser, prompt.kwargs | prompt_args)
        return ParsedDialogue(messages, schema) if schema else messages

    def _extend_messages(self, messages: list[ChatMessage]) -> list[ChatMessage]:
        """Return messages with the system prompt; programs ask what this returns."""
        extended = super()._extend_messages(messages)
        schema = schema_shown_in(messages)
        return ParsedDialogue(extended, schema) if schema else extended

    def _predicted(self, response: ChatResponse) -> str:
        output = self._parse_output(response.message.content or "")
        dispatcher.event(LLMPredictEndEvent(output=output))
        return output

    def _refuse_own_parser(self) -> None:
        if self.output_parser:  # as every LLM does, but before anything is computed
            raise NotImplementedError("Output parser is not supported for streaming.")
