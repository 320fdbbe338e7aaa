"""One-way imports, read from the sources: what may know of what (docs: the map of the house)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import starchat

ROOT = Path(__file__).resolve().parents[1]
CPP = ROOT / "cpp"
PYTHON = ROOT / "src" / "starchat"

#: room → the rooms that its files may include, beside its own
CPP_ROOMS = {
    "base": set[str](),
    "quant": {"base"},
    "text": {"base"},
    "kernels": {"base", "quant"},
    "ops": {"base", "quant", "kernels"},
    "format": {"base", "quant"},
    "model": {"base", "quant", "kernels", "ops", "format"},
    "sampling": {"base"},
    "grammar": {"base", "text", "sampling"},
    "engine": {"base", "sampling", "model"},
}
CPP_ROOMS["bindings"] = {*CPP_ROOMS}

#: floors of src/starchat from the top; a module imports only from floors below its own
FLOORS = [
    {"__init__", "cli"},
    {"loader", "speed"},
    {"model"},
    {"embedding"},
    {"stream", "engines", "progress"},
    {"pump", "chat"},
    {"call_reader"},
    {"tools"},
    {"constraint", "parameters", "text_stream"},
    {"schemas"},
    {"types"},
    {"errors", "_core", "ggml_writer"},
]
FRAMEWORKS = ("langchain", "langchain_core", "llama_index", "torch", "transformers")


def cpp_files() -> list[Path]:
    return sorted(path for path in CPP.rglob("*") if path.suffix in {".cpp", ".hpp", ".inc"})


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", cpp_files(), ids=lambda path: str(path.relative_to(CPP)))
def test_cpp_includes_go_one_way(path: Path) -> None:
    room = path.relative_to(CPP).parts[0]
    rooms = {name.split("/")[0] for name in includes(path) if (CPP / name).is_file()}
    assert rooms <= {room, *CPP_ROOMS[room]}


@pytest.mark.parametrize("path", cpp_files(), ids=lambda path: str(path.relative_to(CPP)))
def test_only_bindings_include_pybind11_and_python(path: Path) -> None:
    foreign = [name for name in includes(path) if re.match(r"pybind11/|Python\.h", name)]
    assert not foreign or path.is_relative_to(CPP / "bindings")


def imports(path: Path, package: str = "starchat") -> set[str]:
    """Return the absolute names of what a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module or ""]))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", sorted(PYTHON.glob("*.py")), ids=lambda path: path.name)
def test_python_imports_go_one_way(path: Path) -> None:
    ours = {name for floor in FLOORS for name in floor}
    floor = next(i for i, names in enumerate(FLOORS) if path.stem in names)
    below = {name for names in FLOORS[floor + 1 :] for name in names}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("starchat.")}
    allowed = below | ({"__init__", "__version__"} if path.stem == "cli" else set())
    assert (used & ours) <= allowed
    assert not [name for name in imports(path) if name.split(".")[0] in FRAMEWORKS]


def adapter_files() -> list[Path]:
    return sorted((ROOT / "integrations").glob("*/[!.]*/**/*.py"))


@pytest.mark.parametrize("path", adapter_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_adapters_use_only_public_names(path: Path) -> None:
    used = {name for name in imports(path, "adapter") if name.startswith("starchat.")}
    assert used <= {f"starchat.{name}" for name in (*starchat.__all__, "__version__")}


def test_importing_starchat_imports_no_framework_and_no_command_line() -> None:
    unwanted = [*FRAMEWORKS, "llguidance", "typer", "rich"]
    code = f"import sys, starchat; print([m for m in {unwanted} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        ("langchain_core.language_models", "langchain_starchat"),
        ("llama_index.core.llms.llm", "llama_index.llms.starchat"),
    ],
)
def test_importing_an_adapter_imports_no_more_of_the_framework(base: str, adapter: str) -> None:
    pytest.importorskip(base)
    code = f"""
        import importlib, sys
        module = importlib.import_module({base!r})
        if hasattr(module, "BaseChatModel"):  # its names load on first use
            module.BaseChatModel, module.BaseLLM
        before = set(sys.modules)
        import {adapter}
        print([name for name in sys.modules if name not in before and not name.startswith(
            ("starchat", {adapter!r})) and name not in sys.stdlib_module_names])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert result.stdout.strip() == "[]", result.stderr
