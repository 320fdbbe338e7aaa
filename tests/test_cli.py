"""The `starchat` command as a person or a pipe uses it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import stat
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

import starchat.bench
import starchat.cli.bench
import starchat.cli.conversation
import starchat.cli.options
import starchat.cli.terminal
from starchat.cli.app import app
from starchat.cli.infill import split_at
from starchat.convert.conversion import convert
from starchat.model import EMBEDDED
from support.sparse_model import write_sparse
from support.tiny_model import Shape

pytestmark = pytest.mark.integration

COMMAND = [sys.executable, "-m", "starchat"]
GREEDY = ["--temperature", "0", "--max-tokens", "12"]


def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60
    )


class Call(Protocol):
    """The command in this process, which is quicker than `run`."""

    def __call__(
        self, *arguments: str | Path, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Call:
    def call(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        argv = ["starchat", *map(str, arguments)]
        (tmp_path / "stdin").write_bytes(stdin.encode())
        capfd.readouterr()
        with open(tmp_path / "stdin") as file, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", file)
            patch.setattr("sys.argv", argv)
            with pytest.raises(SystemExit) as exit:
                starchat.cli.main()
        return subprocess.CompletedProcess(argv, int(exit.value.code or 0), *capfd.readouterr())

    return call


class Terminal:
    """The command in a pseudo-terminal, as its user sees it: without what moves and colours."""

    def __init__(self, *arguments: str | Path, state: Path) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "XDG_STATE_HOME": str(state)},
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str, timeout_s: float = 20.0) -> str:
        """Return what the screen shows up to `pattern`, and forget it."""
        end = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.seen)):
            if time.monotonic() > end or not self._read():
                pytest.fail(f"{pattern!r} did not come; the terminal shows {self.seen!r}")
        shown, self.seen = self.seen[: match.end()], self.seen[match.end() :]
        return shown

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        seen = re.sub(r"\x1b\[[0-?]*[@-~]", "", self.seen + data.decode("utf-8", "replace"))
        self.seen = re.sub(r"\r+\n", "\r\n", seen)
        return bool(data)

    def interrupt(self) -> None:
        time.sleep(0.2)  # between showing its prompt and waiting, nobody listens
        self.process.send_signal(signal.SIGINT)

    def exit_code(self) -> int:
        return self.process.wait(timeout=20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def conversation(tiny_model_path: Path, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal("chat", "-m", tiny_model_path, *GREEDY, state=tmp_path)
    try:
        terminal.wait_for("> ")
        yield terminal
    finally:
        terminal.close()


# ---- render -----------------------------------------------------------------------------------


def test_render_shows_the_prompt_and_generates_nothing(call: Call, tiny_model_path: Path) -> None:
    result = call("render", "Say <|end|>", "--system", "Be brief.", "-m", tiny_model_path)
    assert result.stdout == (
        "«<|system|>»\nBe brief.«<|end|>»\n«<|user|>»\nSay <|end|>«<|end|>»\n«<|assistant|>»\n"
    )
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Say <|end|>"},
    ]
    with starchat.StarChat.load(tiny_model_path) as model:
        n_tokens = model.count_tokens(messages)
    assert (result.returncode, result.stderr) == (0, f"{n_tokens} tokens\n")
    piped = call(
        "render", "-", "--system", "Be brief.", "-m", tiny_model_path, stdin="Say <|end|>\n"
    )
    assert piped.stdout == result.stdout


def test_render_takes_a_whole_dialogue(call: Call, tiny_model_path: Path, tmp_path: Path) -> None:
    turns = ["1+1?", "2", "2+2?"]
    dialogue = [
        {"role": role, "content": turn}
        for role, turn in zip(["user", "assistant", "user"], turns, strict=True)
    ]
    file = tmp_path / "dialogue.json"
    file.write_text(json.dumps(dialogue))
    with starchat.StarChat.load(tiny_model_path) as model:
        expected = model.render(dialogue) + "\n"
    for path, stdin in ((file, ""), ("-", json.dumps(dialogue))):
        result = call("render", "--messages", path, "-m", tiny_model_path, stdin=stdin)
        assert result.stdout == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give a QUESTION, or --messages FILE"),
        (["Hi", "--messages", "-"], "--messages has the whole dialogue"),
        (["--messages", "-"], "expected a JSON list of messages"),
        (["--messages", "absent.json"], "absent.json: No such file"),
    ],
)
def test_render_says_what_it_needs(call: Call, arguments: list[str], sentence: str) -> None:
    result = call("render", *arguments, stdin="no JSON")
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence in result.stderr.replace("\n", " ")


# ---- chat and complete ----------------------------------------------------------------------


def test_chat_prints_the_answer_alone(tiny_model_path: Path) -> None:
    result = run("chat", "Hi", "--model", tiny_model_path, "--system", "Be brief.", *GREEDY)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    with starchat.StarChat.load(tiny_model_path) as model:
        reply = model.chat(messages, temperature=0, max_tokens=12)
    assert result.stdout == reply.text + "\n"
    cut = "cut here: 12 tokens, the limit of --max-tokens\n"
    assert (result.returncode, result.stderr) == (0, cut)


@pytest.mark.parametrize("command", ["chat", "complete"])
@pytest.mark.parametrize("argument", [[], ["-"]], ids=["nothing", "dash"])
def test_a_pipe_brings_the_question(
    call: Call, tiny_model_path: Path, command: str, argument: list[str]
) -> None:
    piped = call(
        command,
        *argument,
        "-m",
        tiny_model_path,
        *GREEDY,
        stdin="Hi\n" if command == "chat" else "Hi",
    )
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout == call(command, "Hi", "-m", tiny_model_path, *GREEDY).stdout


def test_the_same_seed_prints_the_same(call: Call, tiny_model_path: Path) -> None:
    seeded = ["--temperature", "2", "--top-k", "0", "--top-p", "1", "--seed", "7"]
    results = [
        call("complete", "a", "-m", tiny_model_path, "--max-tokens", "12", *seeded).stdout
        for _ in range(2)
    ]
    assert results[0] == results[1]


def test_a_reader_that_has_seen_enough_is_no_error(tiny_model_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "complete", "a", "-m", str(tiny_model_path), "--temperature", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_conversation_until_exit(conversation: Terminal, tmp_path: Path) -> None:
    conversation.type("\x1b[200~one\ntwo\n\nthree\x1b[201~\n")
    conversation.wait_for("(?s)three\r\n.*\n> ")
    conversation.type(f"/save {tmp_path}/dialogue.json\n")
    conversation.wait_for("saved: 2 messages")
    conversation.type("/reset\n")
    conversation.wait_for("forgotten")
    conversation.type("/reser\n")
    conversation.wait_for("did you mean /reset")
    conversation.type("/exit\n")
    assert conversation.exit_code() == 0
    question, _ = json.loads((tmp_path / "dialogue.json").read_text())
    assert question == {"role": "user", "content": "one\ntwo\n\nthree"}
    history = tmp_path / "starchat/history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "+one\n+two\n+\n+three\n" in history.read_text()


def test_control_d_leaves(conversation: Terminal) -> None:
    conversation.type("\x04")
    assert conversation.exit_code() == 0


def test_control_c_at_the_prompt_does_not_leave(conversation: Terminal) -> None:
    conversation.interrupt()
    conversation.wait_for("\n> ")
    conversation.type("/exit\n")
    assert conversation.exit_code() == 0


def test_control_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    from support.tiny_model import Shape, write_tiny

    path = tmp_path / "slow.bin"  # some seconds for the context: enough to be interrupted
    write_tiny(path, "q8_0", Shape(n_embd=256, n_layer=8, n_ctx=8192))
    terminal = Terminal("chat", "-m", path, "--temperature", "0", state=tmp_path)
    try:
        terminal.wait_for("> ")
        terminal.type("Hi\n")
        terminal.wait_for(r"Hi\r\n.")
        terminal.interrupt()
        terminal.wait_for("\n> ", timeout_s=2)
        terminal.type("/exit\n")
        assert terminal.exit_code() == 0
    finally:
        terminal.close()


def test_standard_input_follows_the_question(call: Call, tiny_model_path: Path) -> None:
    def printed(*arguments: str, stdin: str = "") -> str:
        return call(*arguments, "-m", tiny_model_path, stdin=stdin).stdout

    code = "    def add(a, b):\n        return a + b"
    rendered = printed("render", "What is this?", stdin=f"\n{code}\n")
    assert f"What is this?\n\n{code}«<|end|>»" in rendered
    both = printed("chat", f"What is this?\n\n{code}", *GREEDY)
    assert printed("chat", "What is this?", *GREEDY, stdin=f"\n{code}\n") == both
    assert printed("chat", "What is this?", *GREEDY) != both


def test_a_text_to_complete_comes_from_one_place(call: Call, tiny_model_path: Path) -> None:
    result = call("complete", "a", "-m", tiny_model_path, stdin="b")
    assert (result.returncode, result.stdout) == (1, "")
    assert "another one on standard input: expected one of them" in result.stderr


def test_a_pipe_without_a_writer_does_not_hang(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    with open(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("starchat.cli.terminal._BEGIN_S", 0.01)
        assert starchat.cli.terminal.read_question("Hi") == "Hi"
        assert "nothing came on standard input within 0.01 s" in capsys.readouterr().err
        os.write(writing, b"there")
        os.close(writing)
        assert starchat.cli.terminal.read_question("Hi") == "Hi\n\nthere"


@pytest.mark.parametrize(
    ("options", "expected"), [([], True), (["--plain"], False), (["--regex", "a+"], False)]
)
def test_answers_are_markdown_unless_asked_for_a_form(
    call: Call, options: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remember(start: object, *, markdown: bool) -> None:
        assert markdown is expected
        raise KeyboardInterrupt

    monkeypatch.setattr("starchat.cli.chat.print_reply", remember)
    assert call("chat", "Hi", *options).returncode == 130


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        (["--allow-special"], {"allow_special": True}),
        (["--no-allow-special"], {"allow_special": False}),
        (["--stop", "a", "--stop", "e"], {"stop": ["a", "e"]}),
        (["--min-p", "0.1", "--presence-penalty", "1"], {"min_p": 0.1, "presence_penalty": 1}),
        (["--temperature", "1", "--seed", "7"], {"temperature": 1, "seed": 7}),
        (["--choice", "yes", "--choice", "no"], {"choice": ["yes", "no"]}),
        (["--regex", "a+"], {"regex": "a+"}),
        (["--json-schema", "FILE"], {"json_schema": True}),
        (["--grammar", "FILE"], {"grammar": "true"}),
    ],
)
def test_options_are_the_keywords_of_the_methods(
    call: Call,
    options: list[str],
    keywords: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("true")
    given: list[dict[str, Any]] = []

    def remember(model: starchat.StarChat, prompt: str, **options: Any) -> None:
        given.append({name: value for name, value in options.items() if value is not None})
        raise KeyboardInterrupt

    monkeypatch.setattr(starchat.StarChat, "stream_complete", remember)
    arguments = [str(tmp_path / "file") if each == "FILE" else each for each in options]
    assert call("complete", "a", *arguments).returncode == 130
    assert given == [keywords]


def test_infill_fills_the_gap_of_a_file(call: Call, tiny_model_path: Path, tmp_path: Path) -> None:
    text = "def add(a, b):\r\n    return \r\nprint(1)\n"
    file, before, after = tmp_path / "file", tmp_path / "before", tmp_path / "after"
    file.write_bytes(text.encode())
    parts = split_at(text, "2")
    assert parts == ("def add(a, b):\r\n    return ", "\r\nprint(1)\n")
    before.write_bytes(parts[0].encode())
    after.write_bytes(parts[1].encode())
    with starchat.StarChat.load(tiny_model_path) as model:
        reply = model.infill(*parts, temperature=0, max_tokens=12)
    for arguments in (
        [file, "--at", "2"],
        [file, "--at", "2:12"],
        ["-", "--at", "2"],
        ["--prefix", before, "--suffix", after],
    ):
        result = call("infill", *arguments, "-m", tiny_model_path, *GREEDY, stdin=text)
        assert result.stdout == reply.text + "\n", result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected FILE --at LINE, or --prefix FILE --suffix FILE"),
        (["-", "--at", "2", "--suffix", "-"], "expected FILE --at LINE, or"),
        (["-", "--at", "0"], "--at: expected LINE or LINE:COLUMN, got '0'"),
        (["-", "--at", "4"], "--at: expected line 1 to 3, got 4"),
        (["-", "--at", "2:5"], "--at: expected column 1 to 4 of line 2, got 5"),
        (["absent", "--at", "2"], "FILE: absent: No such file or directory"),
        (["-", "--at", "2"], "this vocabulary has no <fim_prefix>"),
    ],
)
def test_infill_says_what_it_needs(call: Call, arguments: list[str], sentence: str) -> None:
    result = call("infill", *arguments, stdin="one\ntwo\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence in result.stderr


def test_a_constraint_comes_from_a_file_that_can_be_read(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff")
    for option in ("--json-schema", "--grammar"):
        for name, sentence in ("file", "expected text in UTF-8"), ("absent", "No such file"):
            result = call("chat", "Hi", option, tmp_path / name)
            assert re.match(f"error: {option}: .*{name}: {sentence}", result.stderr)
    (tmp_path / "file").write_text("{")
    result = call("chat", "Hi", "--json-schema", tmp_path / "file")
    assert "file: expected a JSON Schema: Expecting" in result.stderr


# ---- inspect and bench ----------------------------------------------------------------------


def test_inspect_shows_what_is_inside(call: Call, tiny_model_path: Path) -> None:
    shown = call("inspect", tiny_model_path, "--ctx", "128").stdout
    assert "control tokens" in shown and "<|assistant|>" in shown
    for expected in (
        r"format +ggml, q8_0 \(ftype 2007\)",
        "4 heads of width 16, one head of keys and values",
        "output matrix +the input matrix",
        # four pages of 32 tokens: two layers, one head, keys and values of 16 in f16
        r"memory +needs [\d.]+ .B with 128 tokens of context",
        r"of it +weights [\d.]+ KB, KV and prefix cache 32\.77 KB, rest ",
        r"^q8_0 +10 +[\d,]+ +8\.50 +[\d.]+ KB +[\d.]+%$",
        r"^norms and biases +f32 +\d+ +[\d.]+ KB$",
        r"fits here +yes: [\d.]+ .B are free \(",
        r"model/h\*/attn/c_attn/w +q8_0 +192 x 64 +2 ",
    ):
        assert re.search(expected, shown, re.M), f"{expected} is not in\n{shown}"


def test_inspect_says_what_is_wrong(call: Call, tiny_model_path: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.bin"
    cut.write_bytes(tiny_model_path.read_bytes()[:-1000])
    result = call("inspect", cut)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.match(r"error: .*cut\.bin.*", result.stderr)
    assert result.stderr.count("\n") == 1


def test_inspect_as_json_has_every_tensor_and_the_checksum(
    call: Call, tiny_model_path: Path
) -> None:
    content = json.loads(call("inspect", tiny_model_path, "--json", "--sha256").stdout)
    digest = hashlib.sha256(tiny_model_path.read_bytes()).hexdigest()
    assert content["sha256"] == {str(tiny_model_path): digest}
    assert content["types"]["q8_0"]["tensors"] == 10
    sizes = sum(tensor["size_bytes"] for tensor in content["tensors"])
    assert sum(of_type["bytes"] for of_type in content["types"].values()) == sizes
    memory = content["memory"]
    assert memory["fits"] is (memory["total"] <= memory["free"]) and memory["n_ctx"] == 512
    assert digest in call("inspect", tiny_model_path, "--sha256").stdout


def test_inspect_says_what_is_wrong_as_json(call: Call, tmp_path: Path) -> None:
    page = tmp_path / "model.bin"
    page.write_text("<html><title>Not here</title>")
    result = call("inspect", page, "--json", "--sha256")
    refused = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (1, "")
    assert refused["error"]["code"] == "unsupported_format"
    assert "a web page (HTML) with the title 'Not here'" in refused["error"]["message"]
    assert refused["sha256"] == {str(page): hashlib.sha256(page.read_bytes()).hexdigest()}
    result = call("inspect", page, "--sha256")
    assert refused["sha256"][str(page)] in result.stdout
    assert result.stderr == f"error: {refused['error']['message']}\n"


def test_inspect_of_a_gguf_file_shows_its_mix_of_types(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "nano.gguf"
    convert(EMBEDDED, str(path), "q4_k_m")
    shown = call("inspect", path).stdout
    for expected in (
        r"^format +gguf, q4_k \(ftype 15\)",
        r"^blk\.\*\.ffn_down\.weight +4 q4_k, 2 q6_k +256 x 1,024 +6 ",
        r"^q6_k +5 +1,376,256 +6\.56 ",
    ):
        assert re.search(expected, shown, re.M), f"{expected} is not in\n{shown}"


def test_inspect_of_a_large_file_takes_a_moment(call: Call, tmp_path: Path) -> None:
    """StarChat's shape in q8_0: 20 GB, of which the disk stores 2 MB; 0.2 s of CPU time."""
    path = tmp_path / "large.bin"
    shape = Shape(n_embd=6144, n_head=48, n_layer=40, n_ctx=8192, n_vocab=49156)
    assert write_sparse(path, "q8_0", shape) > 20e9
    started = time.process_time()
    shown = call("inspect", path).stdout
    assert time.process_time() - started < 1
    assert re.search("memory +needs 16.93 GB with 8,192 tokens of context", shown), shown
    assert max(map(len, shown.splitlines())) <= 80 and shown.count("\n") < 36


@pytest.mark.parametrize("ctx", ["-5", "0", "1", "513"])
def test_inspect_counts_memory_only_for_a_context_that_the_file_has(
    call: Call, tiny_model_path: Path, ctx: str
) -> None:
    result = call("inspect", tiny_model_path, "--ctx", ctx)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: --ctx: expected 2 to 512, the file's own; got {ctx}\n"


def test_perplexity_is_shown_and_as_json(call: Call, tiny_model_path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("def add(a, b):\n    return a + b\n" * 20)
    options = ["--ctx", "64", "--against", tiny_model_path, "--threads", "1"]
    shown = call("perplexity", tiny_model_path, text, *options).stdout
    assert re.search(r"^perplexity +[\d.]+ \+/- [\d.]+$", shown, re.M)
    assert re.search(r"^KL divergence +mean 0\.000000, 95 % 0\.000000, max 0\.000000$", shown, re.M)
    assert re.search(r"^same top token +100\.00%$", shown, re.M)
    measured = json.loads(call("perplexity", tiny_model_path, text, *options, "--json").stdout)
    assert f"{measured['perplexity']:.4f}" in shown
    assert measured["against"]["same_top"] == 1 and measured["n_ctx"] == 64


def test_perplexity_says_what_it_lacks(call: Call, tiny_model_path: Path) -> None:
    result = call("perplexity", tiny_model_path, "-", stdin="too short")
    assert result.returncode == 1 and result.stdout == ""
    assert re.search(r"one window of 512 tokens, got \d+: .*, or --ctx \d+$", result.stderr)


def test_bench_measures_reading_and_writing(call: Call, tiny_model_path: Path) -> None:
    options = ["--prompt-tokens", "32", "--tokens", "8", "--repeat", "2"]
    result = call("bench", "-m", tiny_model_path, *options)
    assert result.returncode == 0, result.stderr
    assert re.search(r"read the prompt +32 +[\d,.]+", result.stdout)
    assert re.search(r"write the reply +8 +[\d,.]+ .* GB/s", result.stdout)
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_bench_as_json_has_every_measurement_and_the_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from support.tiny_model import Shape, write_tiny

    path = write_tiny(tmp_path / "tiny.q8_0.bin", "q8_0", Shape(n_ctx=64)).path
    monkeypatch.setattr(starchat.bench, "_CACHED_BYTES", 0)
    starchat.cli.bench.bench(
        model=str(path), prompt_tokens=32, tokens=8, repeat=2, json=True, threads=1
    )
    found = json.loads(capsys.readouterr().out)
    assert found["model"]["n_threads"] == 1
    for phase in found["prefill"], found["decode"]:
        assert len(phase["tokens_per_s"]) == len(phase["limits"]) == 2
        shares = [
            speed * phase["work_per_token"] / limit
            for speed, limit in zip(phase["tokens_per_s"], phase["limits"], strict=True)
        ]
        assert phase["share"] == pytest.approx(statistics.median(shares))
    # c_attn 64 x (64 + 2·16), c_proj 64 x 64, the MLP twice 64 x 256; two layers
    assert found["prefill"]["work_per_token"] == 2 * (64 * 96 + 64 * 64 + 2 * 64 * 256)
    assert found["decode"]["work_per_token"] == found["model"]["weight_bytes"]


def test_bench_gives_no_share_of_memory_to_weights_that_caches_hold(
    call: Call, tiny_model_path: Path
) -> None:
    result = call("bench", "-m", tiny_model_path, "--tokens", "8", "--repeat", "1", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    decode = json.loads(result.stdout)["decode"]
    assert (decode["limits"], decode["limit"], decode["share"]) == ([], None, None)


@pytest.mark.parametrize("option", ["--tokens", "--prompt-tokens"])
def test_bench_refuses_what_the_context_does_not_hold(
    call: Call, tiny_model_path: Path, option: str
) -> None:
    result = call("bench", "-m", tiny_model_path, option, "512")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: {option}: expected less than the context of 512 tokens, got 512\n"
    )


def test_bench_spares_no_work(tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies = []
    complete = starchat.StarChat.complete

    def remember(*arguments: Any, **options: Any) -> starchat.Completion:
        replies.append(complete(*arguments, **options))
        return replies[-1]

    monkeypatch.setattr(starchat.StarChat, "complete", remember)
    starchat.cli.bench.bench(model=str(tiny_model_path), prompt_tokens=64, tokens=300, repeat=2)
    assert [reply.usage.completion_tokens for reply in replies] == [1, 300] * 2
    for reply in replies:
        assert reply.usage.cached_tokens == reply.usage.guessed_tokens == 0


# ---- the rest -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "chat", "complete", "infill", "render", "bench"])
@pytest.mark.parametrize("columns", [60, 100])
def test_help_is_whole_at_any_width(
    call: Call, monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = call(*command.split(), "--help").stdout
    assert max(map(len, shown.splitlines())) <= columns
    assert "..." not in shown and "…" not in shown
    words = " ".join(shown.split())
    if command in ("chat", "complete", "infill"):
        for name, parameter in starchat.cli.options.SAMPLING.items():
            assert f"--{name.replace('_', '-')}" in shown
            assert parameter.metadata["meaning"] in words


def test_the_documentation_names_every_command_and_option() -> None:
    page = (Path(__file__).parents[1] / "docs/command_line.md").read_text("utf-8")
    names = [f"starchat {command.callback.__name__}" for command in app.registered_commands]
    names += [f"--{name.replace('_', '-')}" for name in starchat.cli.options.REPLY_OPTIONS]
    names += [f"/{name}" for name in starchat.cli.conversation.COMMANDS]
    assert [name for name in names if name not in page] == []


def test_a_fault_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    def fault(**settings: str) -> None:
        raise RuntimeError("of this test")

    monkeypatch.setattr("starchat.cli.app.app", fault)
    with pytest.raises(SystemExit, match="1"):
        starchat.cli.main()
    error = (
        "error: RuntimeError: of this test (a fault of starchat; STARCHAT_TRACEBACK=1 shows where)"
    )
    assert capfd.readouterr().err == error + "\n"


def test_version() -> None:
    assert run("--version").stdout == f"starchat {starchat.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["chat", "Hi", "-m", "missing.bin"], "missing.bin", id="no-such-file"),
        pytest.param(["inspect", "."], "error: ", id="a-folder"),
        pytest.param(["chat"], "error: no question", id="nothing-on-stdin"),
        pytest.param(["chat", "Hi", "--threads", "9" * 11], "--threads: expected", id="threads"),
        pytest.param(["chat", "Hi", "-m", "~/missing.bin"], str(Path.home()), id="home"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(
    call: Call, arguments: list[str], sentence: str
) -> None:
    result = call(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        pytest.param("chat <&-", "no question: neither as an argument", id="no-stdin"),
        pytest.param("complete <&-", "prompt has 0 tokens", id="no-stdin-to-complete"),
        pytest.param("chat Hi >&-", "standard output is closed", id="no-stdout"),
        pytest.param("chat Hi >/dev/full", "No space left on device", id="disk-full"),
        pytest.param("--version >/dev/full", "No space left on device", id="disk-full-at-exit"),
    ],
)
def test_a_shell_that_closed_or_filled_a_stream_gets_one_line(
    tiny_model_path: Path, command: str, sentence: str
) -> None:
    name, _, rest = command.partition(" ")
    model = "" if name.startswith("-") else f"-m '{tiny_model_path}'"
    result = subprocess.run(
        f"'{sys.executable}' -m starchat {name} {model} {rest}",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr


def test_wrong_options_are_refused_by_name(call: Call, tiny_model_path: Path) -> None:
    result = call("chat", "Hi", "-m", tiny_model_path, "--temperature", "-1")
    assert result.returncode == 1
    assert "error: --temperature: expected" in result.stderr
