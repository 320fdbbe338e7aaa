"""Imports go one way, read from the sources: which folder may know of which."""

from __future__ import annotations

import ast
import importlib
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import starchat
import starchat.model_settings
import starchat.openai
from support.processes import run_python

ROOT = Path(__file__).resolve().parents[1]
CPP = ROOT / "cpp"
PYTHON = ROOT / "src" / "starchat"

#: folder of cpp → the folders whose headers it may include, beside its own
CPP_FOLDERS = {
    "base": set[str](),
    "quant": {"base"},
    "text": {"base"},
    "kernels": {"base", "quant"},
    "ops": {"base", "quant", "kernels"},
    "format": {"base", "quant"},
    "gpu": {"base", "quant", "kernels"},
    "model": {"base", "quant", "kernels", "ops", "format", "gpu"},
    "sampling": {"base"},
    "grammar": {"base", "text", "sampling"},
    "engine": {"base", "sampling", "model"},
}
CPP_FOLDERS["bindings"] = CPP_FOLDERS["tests"] = CPP_FOLDERS["fuzz"] = {*CPP_FOLDERS}

#: folder or module of src/starchat → what it may import: folders, or modules beside them
BASE = {"errors", "types", "partial_json", "checks", "json_text", "limits", "sampling", "_core"}
FOLDERS = {
    "errors": set[str](),
    "partial_json": set[str](),
    "types": {"errors", "partial_json"},
    "checks": {"errors"},
    "json_text": {"checks"},
    "limits": {"errors", "checks"},
    "argument_names": {"errors"},
    "sampling": {"errors", "checks", "argument_names"},
    "text_stream": set[str](),
    "infill": BASE,
    "model_source": {"errors", "_core", "convert"},
    "engine_registry": BASE | {"threads", "model_source"},
    "partial_reply": BASE | {"chat", "text_stream"},
    "threads": {"errors"},
    "worker": {"errors", "threads"},
    "request_size": {"types"},
    "prompt_room": {"errors", "limits", "_core"},
    "async_waker": {"errors", "_core", "worker"},
    "stream": BASE | {"async_waker", "partial_reply", "worker"},
    "openai": BASE | {"chat", "grammar"},
    "grammar": BASE,
    "chat": BASE | {"grammar", "infill", "prompt_room", "text_stream"},
    "atomic_file": {"errors"},
    "convert": {"errors", "_core", "atomic_file"},
    "hub": {"errors"},
    "server": None,  # everything
    "cli": None,
}
ENTRANCES = {"cli", "server"}  # nothing imports them, but the command the server
#: what the C API's named tuples have beside their fields
OF_NAMED_TUPLES = {"n_fields", "n_sequence_fields", "n_unnamed_fields"}
FRAMEWORKS = ("langchain", "langchain_core", "llama_index", "torch", "transformers")


def cpp_files() -> list[Path]:
    return sorted(path for path in CPP.rglob("*") if path.suffix in {".cpp", ".hpp", ".inc"})


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", cpp_files(), ids=lambda path: str(path.relative_to(CPP)))
def test_cpp_includes_go_one_way(path: Path) -> None:
    folder = path.relative_to(CPP).parts[0]
    used = {name.split("/")[0] for name in includes(path) if (CPP / name).is_file()}
    assert used <= {folder, *CPP_FOLDERS[folder]}


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


def modules() -> list[str]:
    """Return the modules of starchat, as names below it: "chat.tools"; packages too."""
    paths = sorted(path.relative_to(PYTHON).with_suffix("") for path in PYTHON.rglob("*.py"))
    names = [".".join(part for part in path.parts if part != "__init__") for path in paths]
    return [name for name in names if name not in {"", "__main__"}]


def used_modules(name: str) -> set[str]:
    """Return the modules of starchat that one of them imports, anywhere in it."""
    path = PYTHON.joinpath(*name.split("."))
    is_package = path.is_dir()
    path = path / "__init__.py" if is_package else path.with_suffix(".py")
    package = ["starchat", *name.split(".")][: None if is_package else -1]
    used: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            found = ".".join(part for part in base[1:] if part)
            used |= {".".join(filter(None, [found, alias.name])) for alias in node.names} | {found}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("starchat"):
            raise AssertionError(f"{name} imports {node.module} by its absolute name")
    return used & {*modules(), "_core"}


@pytest.mark.parametrize("name", modules())
def test_python_folders_import_one_way(name: str) -> None:
    top = name.split(".")[0]
    used = {used.split(".")[0] for used in used_modules(name)} - {top}
    assert not used & ENTRANCES or (top, used & ENTRANCES) == ("cli", {"server"})
    allowed = FOLDERS[top] if (PYTHON / top).is_dir() else FOLDERS.get(top)
    assert allowed is None or used <= allowed
    path = PYTHON.joinpath(*name.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert not [name for name in imports(path) if name.split(".")[0] in FRAMEWORKS]


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: used_modules(name) - {name, name.split(".")[0]} for name in modules()}
    assert [*TopologicalSorter(graph).static_order()]  # raises CycleError, with the circle


def adapter_files() -> list[Path]:
    paths = (ROOT / "integrations").glob("*/[!.]*/**/*.py")
    return sorted(path for path in paths if "tests" not in path.relative_to(ROOT).parts)


@pytest.mark.parametrize("path", adapter_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_adapters_use_only_public_names(path: Path) -> None:
    used = {name for name in imports(path, "adapter") if name.startswith("starchat.")}
    public = {f"starchat.{name}" for name in (*starchat.__all__, "__version__")}
    for module in (starchat.openai, starchat.model_settings):
        public |= {module.__name__, *(f"{module.__name__}.{name}" for name in module.__all__)}
    assert used <= public


def test_adapters_have_equal_bounds_on_starchat_and_its_license() -> None:
    folders = [path.parent for path in (ROOT / "integrations").glob("*/pyproject.toml")]
    assert len(folders) == 3
    texts = [(folder / "pyproject.toml").read_text() for folder in folders]
    bounds = {re.search(r'"starchat(?:\[grammar\])?(>=[^"]*)"', text) for text in texts}
    assert {bound and bound[1] for bound in bounds} == {">=0.1,<0.2"}
    license = (ROOT / "LICENSE").read_bytes()
    assert all((folder / "LICENSE").read_bytes() == license for folder in folders)


@pytest.mark.integration
def test_importing_starchat_imports_no_framework_and_no_command_line() -> None:
    unwanted = [*FRAMEWORKS, "llguidance", "typer", "rich", "asyncio", "numpy"]
    unwanted += ["starchat.server", "fastapi", "uvicorn", "pydantic"]
    code = f"import sys, starchat; print([m for m in {unwanted} if m in sys.modules])"
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.integration
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
    result = run_python(code)
    assert result.stdout.strip() == "[]", result.stderr


def test_the_product_does_without_the_seams_of_its_tests() -> None:
    named = [path for path in PYTHON.rglob("*.py") if "testing" in path.read_text()]
    assert not named


@pytest.mark.parametrize("name", ["_core", "_core.machine", "_core.testing"])
def test_the_stub_has_the_names_that_the_core_has(name: str) -> None:
    module = importlib.import_module(f"starchat.{name}")
    stub = PYTHON / "_core" / f"{name.removeprefix('_core').strip('.') or '__init__'}.pyi"
    described = public_names(ast.parse(stub.read_text()))
    submodules = (
        {path.stem: None for path in stub.parent.glob("[!_]*.pyi")} if name == "_core" else {}
    )
    assert described.keys() | submodules == {
        key for key in vars(module) if not key.startswith("__")
    }
    for key, members in described.items():
        if members is not None:
            has = {m for m in vars(getattr(module, key)) if not m.startswith("_")}
            assert members == has - OF_NAMED_TUPLES, key


def public_names(tree: ast.Module | ast.ClassDef) -> dict[str, set[str] | None]:
    """Return what a stub defines: of a class its members, of anything else None."""
    names: dict[str, set[str] | None] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = {n for n in public_names(node) if not n.startswith("_")}
        elif isinstance(node, ast.FunctionDef):
            names[node.name] = None
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = None
    return names
