"""Where starchat cannot work, in a subinterpreter or without a GIL, an error says what to do."""

from __future__ import annotations

import sys
import sysconfig

import pytest

from support.processes import run_python

pytestmark = pytest.mark.integration

# _interpreters of Python 3.13 returns what went wrong, _xxsubinterpreters raises it.
CODE = """
    import importlib, sys
    kind, loads_first = sys.argv[1:]
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    interpreters = importlib.import_module(name)
    if loads_first == "True":
        import starchat
    if name == "_interpreters":
        made = interpreters.create(kind)
    elif sys.version_info >= (3, 12):
        made = interpreters.create(isolated=kind == "isolated")
    else:
        made = interpreters.create()
    try:
        print(interpreters.run_string(made, "import starchat"))
    except Exception as error:
        print(error)
    interpreters.destroy(made)
    import starchat
    print(starchat.StarChatError.__name__)
"""


@pytest.mark.parametrize("loads_first", [True, False], ids=["main first", "subinterpreter first"])
@pytest.mark.parametrize("kind", ["isolated", "legacy"])
def test_a_subinterpreter_is_refused_by_name(kind: str, loads_first: bool) -> None:
    if sys.version_info < (3, 12) and kind == "legacy":
        pytest.skip("there is one kind")
    result = run_python(CODE, kind, loads_first, timeout_s=20)
    assert "ImportError" in result.stdout, result.stderr
    assert "starchat does not work in a subinterpreter: use it in the main" in result.stdout
    assert result.stdout.endswith("StarChatError\n"), "the main interpreter can use it"
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="not free-threaded")
def test_a_python_without_a_gil_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, starchat; print(sys._is_gil_enabled())"
    assert run_python(code).stdout == "True\n"
    monkeypatch.setenv("PYTHON_GIL", "0")
    assert "ImportError: starchat does not work without the GIL" in run_python(code).stderr
