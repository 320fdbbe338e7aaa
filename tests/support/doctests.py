"""Runs the examples in docstrings.

Output that is shown up to "..." is a reply of the embedded model. Its words are graded by the
quality suite; elsewhere any words will do, so that another model changes no test.
"""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src/starchat"
MODULES = [
    "starchat",
    *sorted(
        ".".join(("starchat", *path.relative_to(SOURCE).with_suffix("").parts))
        for path in SOURCE.rglob("*.py")
        if ">>> " in path.read_text("utf-8") and path.name != "__init__.py"
    ),
]


class AnyWords(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        reply = re.fullmatch(r"""(['"]?) ?\w.*\.\.\.\1\n""", want)
        if reply:
            quote = "['\"]" if reply[1] else ""
            return re.fullmatch(f"{quote}.*{quote}\\n*", got, re.DOTALL) is not None
        return super().check_output(want, got, optionflags)


def failures(name: str, *, exact_words: bool) -> list[str]:
    """Run a module's examples; return a report for each docstring that has a wrong one."""
    module = importlib.import_module(name)
    checker = doctest.OutputChecker() if exact_words else AnyWords()
    runner = doctest.DocTestRunner(checker, optionflags=doctest.ELLIPSIS)
    reports: list[str] = []
    for test in doctest.DocTestFinder().find(module):
        runner.run(test, out=reports.append)
    return reports
