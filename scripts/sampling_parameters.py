"""Writes what follows from the declarations of sampling parameters; --check only compares.

cpp/sampling/params.def and starchat.sampling.SamplingParams → the core's stub, SamplingOptions, and
the fields of both adapters: where type checkers must see names that one place declares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from starchat import SamplingParams, _core

ROOT = Path(__file__).resolve().parents[1]
INTEGRATIONS = ROOT / "integrations"
BLOCK = re.compile(
    r"(?<=    # Sampling parameters, written by scripts/sampling_parameters.py\n)"
    r".*?(?=    # End of sampling parameters\n)",
    re.DOTALL,
)
Parameter = Field[Any]


def stub() -> Iterator[str]:
    """Yield the fields of the core's class."""
    for name, type in _core.SAMPLING_PARAMETERS.items():
        meaning = getattr(_core.SamplingParams, name).__doc__
        yield f"    {name}: {type}  # {meaning}\n"


def options(parameter: Parameter) -> str:
    """Return the keyword of the asking methods."""
    return f"    {parameter.name}: {optional(parameter)}\n"


def langchain(parameter: Parameter) -> str:
    """Return the field of the LangChain models, whose stop strings are always a list."""
    type = pydantic(parameter).removeprefix("str | ")
    meaning = parameter.metadata["meaning"]
    return f'    {parameter.name}: {type} = None\n    """{meaning}"""\n'


def llama_index(parameter: Parameter) -> str:
    """Return the field of the LlamaIndex LLM, as ruff formats it."""
    start = f"    {parameter.name}: {pydantic(parameter)} = Field("
    arguments = ["default=None", f'description="{parameter.metadata["meaning"]}"']
    if len(line := f"{start}{', '.join(arguments)})") <= 100:
        return f"{line}\n"
    if len(line := f"        {', '.join(arguments)}") <= 100:
        return f"{start}\n{line}\n    )\n"
    return f"{start}\n        {arguments[0]},\n        {arguments[1]},\n    )\n"


def optional(parameter: Parameter) -> str:
    """Return the type of a keyword, where None means the default."""
    return f"{str(parameter.type).removesuffix(' | None')} | None"


def pydantic(parameter: Parameter) -> str:
    """Return the same with concrete types, which pydantic validates and serializes."""
    return optional(parameter).replace("Mapping[", "dict[").replace("Sequence[", "list[")


def texts() -> dict[Path, str]:
    """Return the files and what their blocks must be."""
    declared = fields(SamplingParams)
    return {
        ROOT / "src/starchat/_core/__init__.pyi": "".join(stub()),
        ROOT / "src/starchat/sampling.py": "".join(map(options, declared)),
        INTEGRATIONS / "langchain/langchain_starchat/settings.py": "".join(
            map(langchain, declared)
        ),
        INTEGRATIONS / "llama_index_llms/llama_index/llms/starchat/base.py": "".join(
            map(llama_index, declared)
        ),
    }


def main() -> int:
    """Write the blocks, or with --check name the files whose block differs."""
    stale = []
    for path, block in texts().items():
        old = path.read_text("utf-8")
        new, n_blocks = BLOCK.subn(lambda _, block=block: block, old)
        if n_blocks != 1:
            raise SystemExit(f"{path}: {n_blocks} blocks of sampling parameters, expected 1")
        if new != old:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(new, "utf-8")
    print("\n".join(stale) or "all as declared")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
