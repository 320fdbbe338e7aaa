"""Names of arguments that are not ours: which of ours is meant, or what to do instead."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from .errors import shown

_OTHER_NAMES = {  # ours: those of other libraries
    "max_tokens": (
        *("max_completion_tokens", "max_new_tokens", "max_output_tokens", "max_tokens_to_sample"),
        *("num_predict", "n_predict", "num_output", "max_length"),
    ),
    "n_ctx": ("context_window", "context_length", "num_ctx", "max_model_len"),
    "n_threads": ("num_thread", "num_threads", "threads"),
    "model_path": ("model", "model_name", "model_id", "model_file"),
    "stop": ("stop_sequences", "stop_strings", "stop_words"),
    "repetition_penalty": ("repeat_penalty",),
    "n": ("num_return_sequences", "candidate_count", "num_generations"),
    "repetition_window": ("repeat_last_n", "penalty_last_n", "last_n_tokens"),
    "logprobs": ("top_logprobs",),
    "tools": ("functions",),
    "tool_choice": ("function_call",),
    "json_schema": ("response_model", "format", "guided_json"),
    "regex": ("guided_regex",),
    "choice": ("guided_choice",),
    "grammar": ("guided_grammar",),
    "continue_final_message": ("prefix", "prefill", "add_generation_prompt"),
}
_LONGEST = 80  # characters of a name that may be ours
_HOLDERS = {"model_kwargs", "generate_kwargs", "pipeline_kwargs", "generation_config", "config"}
_WITHOUT_EFFECT = {  # here: the file and the machine decide what these choose elsewhere
    *("model_type", "lib", "tokenizer", "device", "device_map", "torch_dtype", "load_in_8bit"),
    *("n_gpu_layers", "gpu_layers", "n_batch", "f16_kv", "use_mmap", "use_mlock", "low_vram"),
    *("verbose", "reset", "trust_remote_code"),
}
_INSTEAD = {  # of what other libraries take beside a model's name
    "local_files_only": "the environment's HF_HUB_OFFLINE=1 does it",
    "cache_dir": "the environment's HF_HUB_CACHE does it",
    "token": "the environment's HF_TOKEN does it",
    "revision": "write it into the name, as OWNER/REPO@REVISION",
}


def near_name(name: str, known: Collection[str]) -> str | None:
    """Return the known name that is meant: by the word of another library, or by its spelling.

    >>> near_name("max_new_tokens", ["min_tokens", "max_tokens"])
    'max_tokens'
    """
    if len(name) > _LONGEST:  # to compare its spelling would take its length
        return None
    meant = [ours for ours, others in _OTHER_NAMES.items() if name in others and ours in known]
    return next(iter(meant or difflib.get_close_matches(name, known, n=1)), None)


def unknown_argument(owner: str, name: str, known: Collection[str]) -> str:
    """Return the text of the error for an argument that a class does not have, with the remedy.

    >>> unknown_argument("StarChat", "n_gpu_layers", ["n_ctx"])
    "StarChat has no argument 'n_gpu_layers': leave it out, it has no effect here"
    """
    if name in _HOLDERS:
        hint = ": give what it holds as arguments of their own"
    elif name in _INSTEAD:
        hint = f": {_INSTEAD[name]}"
    elif name in _WITHOUT_EFFECT:
        hint = ": leave it out, it has no effect here"
    else:
        near = near_name(name, known)
        hint = f": did you mean {near!r}?" if near else ""
    return f"{owner} has no argument {shown(name)}{hint}"
