"""Random grammars, regexes and schemas: replies that they allow, or a ConstraintError.

tests/nightly/test_random_constraints.py attacks an engine with many more.
"""

from __future__ import annotations

from collections import Counter

import pytest

from starchat import StarChat

pytest.importorskip("jsonschema", reason="an oracle")
pytest.importorskip("llguidance", reason='needs pip install "starchat[grammar]"')


def test_random_constraints_are_followed_or_refused(nano: StarChat) -> None:
    from support.grammar_attack import ask

    ends = Counter(ask(nano, seed) for seed in range(1, 30))
    assert ends["stop"] >= 8, ends
