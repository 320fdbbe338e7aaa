"""Sampling keywords: names and types are checked, None is the default, nothing is dropped."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from starchat import (
    InvalidRequestError,
    ModelInfo,
    SamplingOptions,
    SamplingParams,
    Usage,
    _core,
)

ROOT = Path(__file__).resolve().parents[1]


def test_the_defaults_are_the_model_cards() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p) == (0.2, 50, 0.95)


def test_every_field_is_a_keyword_and_every_keyword_a_field() -> None:
    fields = {field.name for field in dataclasses.fields(SamplingParams)}
    assert set(SamplingOptions.__annotations__) == fields


def test_the_core_declares_the_same_parameters_with_the_same_defaults() -> None:
    core, ours = _core.SamplingParams(), SamplingParams()
    fields = {field.name: field for field in dataclasses.fields(SamplingParams)}
    assert set(_core.SAMPLING_PARAMETERS) == fields.keys() - {"stop", "ignore_eos", "schema_limits"}
    for name, type in _core.SAMPLING_PARAMETERS.items():
        assert fields[name].type in (type, f"{type} | None")
        if (default := getattr(ours, name)) is not None:
            expected = list(default) if isinstance(default, tuple) else default
            assert getattr(core, name) == expected


def test_what_is_written_from_the_declarations_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts/sampling_parameters.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"make generate writes:\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("name", SamplingOptions.__annotations__)
def test_none_means_the_default(name: str) -> None:
    assert SamplingParams.from_options({name: None}) == SamplingParams()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param({"temprature": 1}, "'temprature': did you mean temperature?", id="misspelt"),
        pytest.param({"max_new_tokens": 1}, "did you mean max_tokens?", id="transformers-name"),
        pytest.param({"max_completion_tokens": 1}, "did you mean max_tokens?", id="OpenAI's name"),
        pytest.param({"num_predict": 1}, "did you mean max_tokens?", id="Ollama's name"),
        pytest.param({"stop_sequences": []}, "did you mean stop?", id="Anthropic's name"),
        pytest.param({"xyz": None}, "'xyz': known are max_tokens, temperature", id="unknown"),
        pytest.param({"max_tokens": "8"}, "max_tokens: expected an integer, got '8'", id="str"),
        pytest.param({"max_tokens": True}, "max_tokens: expected an integer, got True", id="bool"),
        pytest.param({"max_tokens": 1.0}, "max_tokens: expected an integer, got 1.0", id="float"),
        pytest.param({"max_tokens": 2**63}, "max_tokens: expected an integer", id="too-large"),
        pytest.param({"temperature": "hot"}, "temperature: expected a number", id="no-number"),
        pytest.param({"top_p": False}, "top_p: expected a number, got False", id="bool-for-float"),
        pytest.param({"seed": -1}, "seed: expected an integer from 0 to 2", id="negative-seed"),
        pytest.param({"seed": 2**64}, "seed: expected an integer from 0 to 2", id="large-seed"),
        pytest.param({"ignore_eos": 1}, "ignore_eos: expected True or False, got 1", id="flag"),
        pytest.param({"stop": ["a", ""]}, r"stop\[1\]: an empty string", id="empty-stop"),
        pytest.param({"stop": [b"a"]}, r"stop\[0\]: expected a string, got b'a'", id="bytes-stop"),
        pytest.param({"stop": 7}, "stop: expected a string or a list of strings", id="stop-number"),
        pytest.param({"stop_token_ids": 7}, "stop_token_ids: expected a list", id="one-id"),
        pytest.param({"stop_token_ids": ["7"]}, r"stop_token_ids\[0\]: expected an integer"),
        pytest.param({"logit_bias": [1]}, "logit_bias: expected a mapping", id="bias-list"),
        pytest.param({"logit_bias": {"1": 1.0}}, r"bias\['1'\]: expected an integer as the key"),
        pytest.param({"logit_bias": {1: "x"}}, r"logit_bias\[1\]: expected a number"),
        pytest.param({"temperature": 10**400}, "temperature: expected a number that a float"),
        pytest.param({"logit_bias": {1: 10**400}}, r"logit_bias\[1\]: expected a number that a"),
        pytest.param({"max_tokens": 10**5000}, "max_tokens: expected an integer", id="no-repr"),
        pytest.param({"stop": [10**5000]}, r"stop\[0\]: expected a string", id="no-repr-in-list"),
        pytest.param({"seed": np.array([1, 2])}, "seed: expected an integer", id="seed-array"),
        pytest.param({"stop": np.array(3)}, "stop: expected a string or a list", id="stop-array"),
        pytest.param({"stop_token_ids": np.array(3)}, "stop_token_ids: expected a list of token"),
        pytest.param({"stop_token_ids": np.array([[1]] * 2)}, r"stop_token_ids\[0\]: expected an"),
    ],
)
def test_refused_with_name_and_what_was_expected(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        SamplingParams.from_options(options)


def test_numpy_numbers_are_numbers() -> None:
    params = SamplingParams.from_options(
        {"top_k": np.int64(3), "top_p": np.float32(0.5), "seed": np.uint64(2**64 - 1)}
    )
    assert (params.top_k, params.top_p, params.seed) == (3, 0.5, 2**64 - 1)
    assert type(params.top_k) is int
    assert SamplingParams(stop_token_ids=np.array([1, 2])).stop_token_ids == (1, 2)  # type: ignore[arg-type]


def test_one_stop_string_needs_no_list() -> None:
    assert SamplingParams(stop="##").stop == ("##",)


def test_later_changes_of_a_callers_list_change_nothing() -> None:
    stop = ["a"]
    params = SamplingParams(stop=stop)
    stop.append("b")
    assert params.stop == ("a",)


def test_usage_adds_up() -> None:
    assert Usage(3, 4).total_tokens == 7
    both = Usage(3, 4, cached_tokens=2) + Usage(5, 6, 1, 8, 7, 9)
    assert dataclasses.astuple(both) == (8, 10, 3, 8, 7, 9)


def test_model_info_reads_as_one_line() -> None:
    info = ModelInfo("x.bin", "q8_0", 2, 64, 4, 1, 8192, 49156, 15_000_000, 16_000_000, "avx2", 2)
    assert len(str(info).splitlines()) == 1
    for shown in ("x.bin", "q8_0", "15.0 M", "16.0 MB", "8,192", "49,156", "avx2", "2 threads"):
        assert re.search(rf"\b{re.escape(shown)}\b", str(info)), shown
