"""`starchat serve` as a person or a service manager uses it."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import httpx
import pytest

import starchat.cli
from starchat import FileAccessError
from starchat.cli.serve import _settings, with_keys
from starchat.server.run import listen, run
from starchat.server.service import Service
from starchat.server.settings import OPTIONS, ServerSettings
from support.processes import run_python

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-m", "starchat", "serve", "--port", "0"]
#: Beside the ones of this machine: an answer that is longer than the test.
LONG = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2_000, "ignore_eos": True}


class Process:
    """The command, and what it says on stderr."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        assert self.process.stderr
        self.lines = [self.process.stderr.readline()]
        found = re.search(r"https?://\S+:\d+", self.lines[0])
        assert found, self.lines
        self.url = found[0]

    def wait_until_loaded(self) -> None:
        while httpx.get(self.url + "/health").status_code != 200:
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        """Return the exit code, and all that was said."""
        _, rest = self.process.communicate(timeout=20)
        return self.process.returncode, "".join(self.lines) + rest


@pytest.fixture
def process() -> Iterator[Any]:
    begun: list[Process] = []

    def begin(*arguments: str, **environment: str) -> Process:
        begun.append(Process(*arguments, **environment))
        return begun[-1]

    yield begin
    for each in begun:
        each.process.kill()
        each.process.wait()


def test_it_listens_before_it_loads_says_what_to_do_and_ends_at_sigterm(process: Any) -> None:
    server = process("--log-json")
    first = httpx.get(server.url + "/health")
    assert first.status_code in (200, 503)
    server.wait_until_loaded()
    assert httpx.post(server.url + "/health?secret").status_code == 405
    server.process.send_signal(signal.SIGTERM)
    code, said = server.end()
    assert code == 0
    assert f'openai.OpenAI(base_url="{server.url}/v1", api_key="none")' in said
    last = json.loads(said.splitlines()[-1])
    assert (last["method"], last["path"], last["status"]) == ("POST", "/health", 405)
    assert "secret" not in said


def test_a_key_from_the_environment_and_ctrl_c(process: Any) -> None:
    server = process(STARCHAT_API_KEY="of-the-environment")
    server.wait_until_loaded()
    assert httpx.get(server.url + "/metrics").status_code == 401
    headers = {"Authorization": "Bearer of-the-environment"}
    assert httpx.get(server.url + "/metrics", headers=headers).status_code == 200
    server.process.send_signal(signal.SIGINT)
    code, said = server.end()
    assert code == 130
    assert "of-the-environment" not in said


@pytest.mark.parametrize("signals", [1, 2])
def test_the_first_sigterm_waits_for_streams_and_the_second_does_not(
    process: Any, signals: int
) -> None:
    server = process("--drain-timeout", "30")
    server.wait_until_loaded()
    body = LONG | {"stream": True, "max_tokens": 300 if signals == 1 else 2_000}
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=30) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_text()
        received = next(pieces)
        for _ in range(signals):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        if signals == 1:
            received += "".join(pieces)
            assert received.endswith("data: [DONE]\n\n") and "error" not in received
    assert server.end()[0] == (0 if signals == 1 else -signal.SIGTERM)


def test_a_model_that_cannot_be_loaded_is_one_line_and_an_exit_code() -> None:
    result = subprocess.run(
        [*COMMAND, "--model", "missing.bin"], capture_output=True, text=True, timeout=20
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "missing.bin" in last


def test_without_the_extra_it_says_what_to_install() -> None:
    result = run_python(
        """
        import sys
        sys.modules["fastapi"] = None
        sys.argv = ["starchat", "serve"]
        from starchat.cli import main
        main()
        """
    )
    assert result.returncode == 1
    assert result.stderr == ("error: starchat serve needs fastapi: pip install 'starchat[serve]'\n")


def test_the_extra_has_what_constraints_and_tools_need() -> None:
    needed = [each.partition(";") for each in requires("starchat") or ()]
    assert "starchat[grammar]" in [name.strip() for name, _, extra in needed if "serve" in extra]


def test_tls_and_a_unix_socket(process: Any, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout"
    subprocess.run([*make.split(), key, "-out", certificate], check=True, capture_output=True)
    server = process("--ssl-keyfile", str(key), "--ssl-certfile", str(certificate))
    assert server.url.startswith("https://127.0.0.1:")
    assert httpx.get(server.url + "/health", verify=False).status_code in (200, 503)
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as killed:  # as the one of a server that was killed
        killed.bind(str(path))
    settings = ServerSettings(uds=str(path))
    with listen(settings) as listening, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        assert listening.accept()
        with pytest.raises(FileAccessError, match="in use"):
            listen(settings)
    path.unlink()
    path.write_text("precious")
    with pytest.raises(FileAccessError, match="in use"):
        listen(settings)
    assert path.read_text() == "precious"


# ---- what is wrong before it starts: in this process ------------------------------------------


def error_of(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str
) -> str:
    monkeypatch.setattr("sys.argv", ["starchat", "serve", *arguments])
    with pytest.raises(SystemExit) as exit:
        starchat.cli.main()
    assert exit.value.code == 1
    return capfd.readouterr().err


def test_a_busy_port_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        said = error_of(monkeypatch, capfd, "--port", port)
    assert said == (
        f"error: --port: 127.0.0.1:{port}: another program listens there: take another --port, or "
        "0 for a free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--host", "0.0.0.0"], "there is no key"),
        (["--host", "no such host", "--no-auth"], "--host: no such host: "),
        (["--port", "70000"], "--port: expected 0 to 65535, got 70000"),
        (["--ssl-keyfile", "x"], "expected --ssl-keyfile and --ssl-certfile together"),
        (["--ssl-keyfile", "a", "--ssl-certfile", "b"], "b, a: No such file"),
        (["--ssl-keyfile", __file__, "--ssl-certfile", __file__], f"{__file__}: [SSL] PEM lib"),
        (["--api-key", ""], "--api-key: expected a key"),
        (["--cors", "example.com"], "--cors: expected an origin"),
        (["--max-running", "0"], "--max-running: expected at least 1, got 0"),
        (["--threads", "0"], "--threads: expected at least 1, got 0"),
        (["--prefix-cache", "-1"], "--prefix-cache: expected at least 0, got -1"),
        (["--api-key-file", "missing"], "missing: No such file"),
        (["--uds", "/no/such/folder/x"], "/no/such/folder/x: No such file"),
    ],
)
def test_wrong_options_are_told(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    assert sentence in error_of(monkeypatch, capfd, *arguments)


def test_keys_come_from_options_the_environment_and_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\none\n\n two \none\n")
    monkeypatch.setenv("STARCHAT_API_KEY", "three")
    settings = ServerSettings(api_key=("four",), api_key_file=str(file))
    assert with_keys(settings).api_key == ("four", "three", "one", "two")


def test_collections_spare_what_was_loaded() -> None:
    frozen = []
    gc.unfreeze()

    def loaded(service: Service) -> None:
        frozen.append(gc.get_freeze_count())
        signal.raise_signal(signal.SIGTERM)

    try:
        ended = run(ServerSettings(port=0, ctx=256), lambda address: None, loaded)
    finally:
        gc.unfreeze()
    assert ended == signal.SIGTERM
    assert frozen[0] > 10_000


def test_every_setting_is_an_option_and_the_documentation_has_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["starchat", "serve", "--help"])
    with pytest.raises(SystemExit):
        starchat.cli.main()
    shown = " ".join(capfd.readouterr().out.split())
    page = (Path(__file__).parents[1] / "docs/serving.md").read_text("utf-8")
    for option in OPTIONS.values():
        name = "--" + (option.metadata.get("no") or option.name).replace("_", "-")
        assert name in shown and f"`{name}" in page
        assert option.metadata["meaning"] in shown
    defaults = {
        option.metadata.get("no") or name: False if option.metadata.get("no") else option.default
        for name, option in OPTIONS.items()
    }
    assert _settings(defaults) == ServerSettings()
