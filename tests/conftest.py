"""What all tests share: a tiny random model's file, and the embedded model."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from starchat import FileAccessError, StarChat
from support.failing_memory import build
from support.tiny_model import Shape, write_tiny

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background starts like this
    signal.signal(signal.SIGINT, signal.default_int_handler)

if find_spec("hypothesis"):  # an adapter's own environment may lack it
    from hypothesis import HealthCheck, settings

    # A busy machine is no failure.
    settings.register_profile(
        "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("patient")


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights with StarChat's role tokens and a context of 512."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.q8_0.bin"
    return write_tiny(path, "q8_0", Shape(n_ctx=512)).path


@pytest.fixture(scope="session")
def nano() -> Iterator[StarChat]:
    """The embedded model."""
    try:
        model = StarChat.load()
    except FileAccessError as error:
        pytest.skip(str(error))
    with model:
        yield model


@pytest.fixture(scope="session")
def failing_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library that makes allocations fail."""
    library = build(tmp_path_factory.mktemp("memory"))
    if library is None:
        pytest.skip("no compiler, or no glibc")
    return library
