"""Pages of real functions for training: those of this Python's standard library.

What HELD_OUT names is for evaluation alone. The functions differ a little from one Python to the
next, and so do the batches that hold them.
"""

from __future__ import annotations

import ast
import functools
import inspect
import random
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path

from code_contexts import Function, third_person

HELD_OUT = tuple(
    "json/__init__ json/decoder json/encoder json/scanner textwrap shutil csv bisect glob".split()
)
MODULES = tuple(
    "abc argparse ast base64 bdb calendar cmd code codecs codeop collections/__init__ colorsys "
    "compileall concurrent/futures/_base concurrent/futures/thread configparser contextlib copy "
    "dataclasses datetime difflib dis doctest email/message email/utils enum filecmp fileinput "
    "fnmatch fractions ftplib functools getopt getpass gettext graphlib gzip hashlib heapq hmac "
    "html/__init__ html/parser http/client http/cookiejar http/cookies http/server imaplib "
    "importlib/abc importlib/util inspect ipaddress linecache locale logging/__init__ "
    "logging/config logging/handlers lzma mailbox mimetypes modulefinder multiprocessing/pool "
    "multiprocessing/queues netrc numbers operator optparse os pathlib pdb pickle pickletools "
    "pkgutil platform plistlib poplib posixpath pprint profile pstats pyclbr pydoc queue quopri "
    "random reprlib rlcompleter runpy sched secrets selectors shelve shlex signal site smtplib "
    "socket socketserver sqlite3/dump ssl statistics string subprocess symtable sysconfig tarfile "
    "tempfile threading timeit tokenize trace traceback tracemalloc turtle types typing "
    "unittest/case unittest/loader unittest/mock unittest/suite urllib/parse urllib/request uuid "
    "warnings wave weakref webbrowser wsgiref/handlers wsgiref/headers xml/dom/minidom "
    "xml/etree/ElementTree xmlrpc/client zipapp zipfile".split()
)
MOST_LINES = 40  # of a function that is shown whole


@dataclass(frozen=True)
class Module:
    """A module's path, and its functions in the order of the file."""

    path: str
    functions: tuple[Function, ...]


@functools.cache
def modules(names: tuple[str, ...] = MODULES) -> tuple[Module, ...]:
    """Return the modules that this Python has, those that define functions."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = [folder / f"{name}.py" for name in names]
    made = [
        Module(path.relative_to(folder).as_posix(), _functions(path.read_text("utf-8")))
        for path in found
        if path.exists()
    ]
    return tuple(module for module in made if module.functions)


def _functions(text: str) -> tuple[Function, ...]:
    lines = text.split("\n")
    made = []
    for parent in ast.walk(ast.parse(text)):
        if not isinstance(parent, (ast.Module, ast.ClassDef)):
            continue
        for node in parent.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                made.append((node.lineno, _function(node, parent, lines)))
    return tuple(function for _, function in sorted(made, key=lambda pair: pair[0]))


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, parent: ast.AST, lines: list[str]
) -> Function:
    """Return a function; a long one ends with the lines after its docstring."""
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    if isinstance(parent, ast.ClassDef) and names[:1] in (["self"], ["cls"]):
        names = names[1:]
    names += [f"*{given.vararg.arg}"] if given.vararg else []
    names += [argument.arg for argument in given.kwonlyargs]
    names += [f"**{given.kwarg.arg}"] if given.kwarg else []
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    first = docstring.split("\n")[0].strip()
    does = first.rstrip(".") if first.isascii() and 8 < len(first) < 90 else ""
    begin = min([node.lineno, *(part.lineno for part in node.decorator_list)]) - 1
    end = node.end_lineno or node.lineno
    body = node.body[0].end_lineno or end
    shown = lines[begin : max(body, min(end, begin + MOST_LINES))]
    source = textwrap.dedent("\n".join(shown)) + "\n"
    return Function(node.name, tuple(names), does, third_person(does), source)


def page(rng: random.Random, names: tuple[str, ...] = MODULES) -> tuple[str, list[Function]]:
    """Return some successive functions of one module, and those with a name of their own.

    There is at least one such function.
    """
    module = rng.choice(modules(names))
    most = rng.randint(300, 2600)  # characters
    first = rng.randrange(len(module.functions))
    chosen: list[Function] = []
    for function in module.functions[first:]:
        if chosen and sum(len(other.source) for other in chosen) + len(function.source) > most:
            break
        chosen.append(function)
    text = rng.choice(("\n", "\n\n")).join(function.source for function in chosen)
    if rng.random() < 0.3:
        text = f"file_path: {module.path}\n\n{text}"
    known = [function.name for function in chosen]
    asked = [function for function in chosen if known.count(function.name) == 1]
    return (text, asked) if asked else page(rng, names)
