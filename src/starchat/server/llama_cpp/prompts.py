"""Prompts of llama.cpp's bodies → the service's: mixed texts and ids, and texts with a gap."""

from __future__ import annotations

from dataclasses import dataclass

from ...infill import FIM_SPELLINGS
from ..errors import ApiError, errors_as
from ..service import EMPTY_PROMPT, Prompt, Service
from .forms import CompletionForm, InfillForm

_LONGEST_TOKEN = 256  # characters; what the context never holds is not tokenized


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt, its text for the answer, and whether a part of it was left out."""

    prompt: Prompt
    text: str
    is_cut: bool = False


async def read_prompts(form: CompletionForm, service: Service) -> list[AskedPrompt]:
    """Return the prompts of /completion."""
    asked = []
    for given in form.prompts():
        if not given:
            asked.append(AskedPrompt(EMPTY_PROMPT, ""))
        elif isinstance(given, str):
            asked.append(AskedPrompt(Prompt(text=given, allow_special=form.allowed), given))
        else:
            ids: list[int] = []
            if len(given) > (n_ctx := service.info.n_ctx):
                raise _too_long(len(given), n_ctx)
            for piece in given:
                if isinstance(piece, str):
                    ids += await service.tokenize(piece, form.allowed)
                else:
                    ids.append(piece)
            with errors_as({"token_ids": "prompt"}):
                text = await service.detokenize(ids)
            asked.append(AskedPrompt(Prompt(text=ids), text))
    return asked


def _too_long(n_tokens: int, n_ctx: int) -> ApiError:
    problem = f"prompt has at least {n_tokens:,} tokens, the context holds {n_ctx:,}: shorten it"
    fields = {"limit": n_ctx, "got": n_tokens}
    return ApiError(400, problem, code="context_length_exceeded", param="prompt", fields=fields)


async def read_gap(form: InfillForm, n_reply: int, service: Service) -> AskedPrompt:
    """Return the prompt of /infill: other texts, prefix, suffix, and the beginning of the middle.

    Editors send what is around the cursor, whatever the context holds: what is farthest from it is
    left out, of the other texts first.
    """
    spelling = next((s for s in FIM_SPELLINGS if {*s} <= {*service.special_tokens}), None)
    if spelling is None:  # the model says so
        return AskedPrompt(Prompt(gap=(form.input_prefix, form.input_suffix)), "")
    others = [extra.text.removesuffix("\n") + "\n" for extra in form.input_extra or ()]
    n_ctx = service.info.n_ctx
    most = n_ctx * _LONGEST_TOKEN
    texts = [
        "".join(others)[-most:],
        form.input_prefix[-most:],
        form.input_suffix[:most],
        (form.prompt or "")[:most],
    ]
    extra, prefix, suffix, begun = [await service.tokenize(text, False) for text in texts]
    n_tokens = len(extra) + len(prefix) + len(suffix)

    room = n_ctx - len(spelling) - len(begun) - min(n_reply, n_ctx // 2)
    suffix = suffix[: max(room // 4, room - len(prefix), 0)]
    prefix = _last(prefix, room - len(suffix))
    extra = _last(extra, room - len(suffix) - len(prefix))

    before, after, middle = await service.tokenize("".join(spelling), spelling)
    ids = [*extra, before, *prefix, after, *suffix, middle, *begun]
    is_cut = len(extra) + len(prefix) + len(suffix) < n_tokens
    return AskedPrompt(Prompt(text=ids), await service.detokenize(ids), is_cut)


def _last(ids: list[int], n: int) -> list[int]:
    return ids[max(len(ids) - max(n, 0), 0) :]
