"""Grades: docstrings show the words that the model says."""

from __future__ import annotations

import pytest

from support.doctests import MODULES, failures


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_show_the_models_words(name: str) -> None:
    assert failures(name, exact_words=True) == []
