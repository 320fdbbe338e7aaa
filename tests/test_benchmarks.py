"""What the benchmarks do beside timing: options, peers' environment, ratios, page and picture."""

from __future__ import annotations

import doctest
import importlib
import json
import random
import re
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from starchat import StarChat
from starchat._core import testing
from starchat._core.machine import clock_hz, instruction_sets, multiply_peak
from starchat.errors import InvalidRequestError, UnsupportedFeatureError
from support.server import serving

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

import comparison  # noqa: E402
import draft  # noqa: E402
import environment  # noqa: E402
import kernels  # noqa: E402
import machine  # noqa: E402
import peers  # noqa: E402
import random_model  # noqa: E402
import report  # noqa: E402
import roofline  # noqa: E402
import serving_http  # noqa: E402
import speculation  # noqa: E402
from spread import Spread  # noqa: E402

BEST = instruction_sets()[-1]
MACHINE = {
    "processor": "A Processor",
    "cores": 2,
    "memory_bytes": 16_000_000_000,
    "system": "Linux 6",
    "starchat": "0.1.0",
    "load": 0.0,
}
LIMITS = {
    "read_bandwidth": {"1": [8e9, 10e9], "2": [20e9, 16e9]},
    "multiply_peak": {
        "avx512/int8": {"1": [400e9, 500e9], "2": [1000e9, 800e9]},
        "avx512/f32": {"1": [100e9], "2": [200e9]},
    },
    "clock_hz": [4e9],
}


def result(benchmark: str, **fields: Any) -> dict[str, Any]:
    return {
        "benchmark": benchmark,
        "command": f"python benchmarks/{benchmark}.py",
        "date": "2026-01-02",
        "machine": MACHINE,
    } | fields


def kernels_result() -> dict[str, Any]:
    cases = []
    for n_columns in (1, 64):
        case = kernels.Case("matmul", "avx512", "q4_0", 2, n_columns, 0, 10**9 * n_columns, 10**8)
        case.seconds = [0.01 * n_columns**0.5, 0.02 * n_columns**0.5, 0.03 * n_columns**0.5]
        cases.append(vars(case))
    cases.append(vars(kernels.Case("attention", "avx512", "f16", 1, 1, 64, 10**6, 10**4, [5e-5])))
    cases.append(vars(kernels.Case("gelu", "avx512", "f32", 1, 1, bytes=400, seconds=[2e-6])))
    return result("kernels", limits=LIMITS, cases=cases)


def peers_result() -> dict[str, Any]:
    def engine(prefill: list[float], decode: list[float]) -> dict[str, Any]:
        return {
            "load_s": [1.0, 2.0],
            "peak_bytes": [3 * 10**9] * 2,
            "weight_bytes": [10**9] * 2,
            "prefill": {"512": prefill},
            "decode": {"64": decode},
        }

    found = {
        "type": "q4_0",
        "isa": "avx512",
        "limits": LIMITS,
        "failures": {"ctransformers": "cannot allocate"},
        "engines": {"starchat": engine([400.0, 200.0], [10.0, 12.0])}
        | {"llama.cpp": engine([100.0, 50.0], [5.0, 8.0])},
        "macs_per_token": 10**9,
        "n_ctx": 2048,
    }
    return result("peers", model="santacoder", build="native", threads=2, types=[found])


# ---- the machine's limits -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spread", "machine", "peers", "environment", "draft"])
def test_docstrings_show_what_happens(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0 < found.attempted


def test_draft_models_have_costs(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--threads", "1", "cost", "--target", "tiny", "--draft", "tiny"]
    found = draft.cost(draft.parse([*options, "--steps", "8"]), tmp_path)
    parts, streams = (table["rows"] for table in found["tables"])
    assert [*parts] == ["2 guesses", "4 guesses", "8 guesses"]
    assert all(row["steps/s"][0] > 0 for row in parts.values())
    assert [*streams] == ["a draft that is right", "one that never is"]


@pytest.mark.skipif(BEST == "scalar", reason="plain C++ has no peak")
def test_eight_bits_multiply_faster_than_floats() -> None:
    peaks = {kind: max(multiply_peak(BEST, kind) for _ in range(3)) for kind in ("int8", "f32")}
    assert peaks["int8"] > peaks["f32"] > 1e9  # less than one a cycle of any machine
    assert clock_hz() > 1e8


def test_peaks_that_do_not_exist_are_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match="multiply peak of scalar/int8: unknown; there"):
        multiply_peak("scalar", "int8")
    with pytest.raises(UnsupportedFeatureError, match="instruction set mmx"):
        multiply_peak("mmx", "int8")


@pytest.mark.parametrize("isa", instruction_sets())
def test_every_kernel_can_be_timed(isa: str) -> None:
    timer = testing.MatmulTimer(isa, "q5_1", 32, 64, 2, 1)
    assert timer.matrix_bytes == 32 * 64 // 32 * 24
    assert 0 < timer.seconds(3) < 1
    for positions, columns in (1, 1), (40, 8):
        assert 0 < testing.attention_seconds(isa, 4, 16, positions, columns) < 1
    for kernel in kernels.ELEMENTWISE:
        assert 0 < getattr(testing, f"{kernel}_seconds")(isa, 64) < 1


def test_the_limit_of_a_product_is_the_lower_of_memory_and_peak() -> None:
    one = kernels.Case("matmul", "avx512", "q4_0", 2, 1, macs=180, bytes=100)
    many = kernels.Case("matmul", "avx512", "q4_0", 2, 64, macs=180 * 64, bytes=100)
    cached = kernels.Case("attention", "avx512", "f16", 1, 1, 64, macs=10, bytes=10)
    assert one.limit(LIMITS) == 20e9 * 1.8
    assert many.limit(LIMITS) == 1000e9
    assert cached.limit(LIMITS) == 100e9
    assert kernels.Case("gelu", "avx512", "f32", 1, 1, bytes=4).limit(LIMITS) is None
    assert kernels.Case("matmul", "scalar", "q4_0", 1, 1, macs=1, bytes=1).limit(LIMITS) is None


def test_a_command_is_told_without_this_machines_paths() -> None:
    argv = [
        "/a/b/peers.py",
        "/tmp/x.bin",
        "--peers",
        "/v/bin/python",
        "--weights=/w",
        "--rounds",
        "3",
    ]
    assert machine.command_line(argv) == "python benchmarks/peers.py x.bin --rounds 3"


# ---- peers ----------------------------------------------------------------------------------


def test_options_of_a_shape() -> None:
    options = peers.parse(["santacoder", "--types", "all", "--context", "64", "4096"])
    assert options.types == ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
    assert peers.n_positions(options) == 4096 + options.steps
    assert options.environment == environment.default_directory("native")
    assert peers.n_positions(peers.parse(["tiny", "--ctx", "8192"])) == 8192


def test_a_file_without_gguf_runs_without_llama_cpp() -> None:
    with peers.weights(peers.parse(["a.bin"]), "q4_0") as files:
        assert {*files} == {"starchat", "ctransformers"}
    with peers.weights(peers.parse(["a.bin", "--gguf", "a.gguf"]), "q4_0") as files:
        assert {*files} == {*peers.ENGINES} - {"CTranslate2"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(["tiny", "--types", "q9"], "--types: q9: expected f32", id="type"),
        pytest.param(["tiny", "--rounds", "0"], "expected a number from 1, got '0'", id="rounds"),
        pytest.param(["tiny", "--gguf", "x"], "--gguf goes with a .bin file", id="gguf"),
        pytest.param(["tiny", "--prefill", "--context"], "nothing to measure", id="nothing"),
    ],
)
def test_wrong_options_are_told(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        peers.parse(arguments)
    assert sentence in capsys.readouterr().err


def test_starchat_alone_from_weights_to_json(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/peers.py"), "tiny", "--types", "q4_0", "q8_0"]
    command += ["--skip", *peers.ENGINES[1:], "--prefill", "40", "--context", "8", "40"]
    command += ["--steps", "3", "--rounds", "2", "--threads", "1"]
    command += ["--environment", str(tmp_path / "env"), "--json", str(tmp_path / "found.json")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert "share of limit" in run.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert [part["type"] for part in found["types"]] == ["q4_0", "q8_0"]
    ours = found["types"][0]["engines"]["starchat"]
    assert {key: len(speeds) for key, speeds in ours["decode"].items()} == {"8": 2, "40": 2}
    # two layers of c_attn 128 x (128 + 2·32), c_proj 128 x 128, and the MLP twice 128 x 512
    assert found["types"][0]["macs_per_token"] == 2 * (128 * 192 + 128 * 128 + 2 * 128 * 512)
    assert not [*tmp_path.glob("**/*.bin")]  # what it wrote is gone
    assert "ours / llama.cpp" not in report.peers([found])


def test_an_engine_that_dies_is_left_out_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"no model")
    options = peers.parse([str(broken), "--threads", "1"])
    complaint = peers.run_engine("starchat", broken, options, lambda n: None)
    assert isinstance(complaint, str) and "broken.bin" in complaint


def test_without_a_compiler_the_peers_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(environment.PeersUnavailable, match="no C\\+\\+ compiler: install g\\+\\+"):
        environment.peers_python(tmp_path / "env", "native")
    assert not (tmp_path / "env").exists()


def test_a_built_environment_is_used_again_and_one_of_other_options_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = []

    def pip(python: Path, arguments: list[str], log: Path, variables: Any, *rest: Any) -> None:
        installed.append((arguments[-1], variables.get("CMAKE_ARGS")))

    def create(folder: Path, **options: Any) -> None:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(environment, "_pip", pip)
    monkeypatch.setattr("venv.create", create)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/c++")
    for isa in ("native", "native", "avx2"):
        assert environment.peers_python(tmp_path / "env", isa) == tmp_path / "env/bin/python"
    assert [package for package, _ in installed] == [
        environment.LLAMA_CPP,
        *environment.WHEELS,
    ] * 2
    assert "GGML_AVX512=OFF" in installed[1 + len(environment.WHEELS)][1]
    installed.clear()
    monkeypatch.setattr(environment, "WHEELS", (*environment.WHEELS, "new==1"))
    environment.peers_python(tmp_path / "env", "avx2")
    assert installed == [("new==1", None)]  # nothing is built again


@pytest.mark.parametrize("name", random_model.GGUF_TYPES)
def test_random_weights_of_every_type_are_of_one_size(name: str, tmp_path: Path) -> None:
    shape = random_model.Shape(n_vocab=512, n_ctx=64, n_embd=256, n_head=4, n_layer=2)
    path = tmp_path / "random.gguf"
    random_model.write_gguf(path, shape, name)
    with StarChat.load(path, n_threads=1) as model:
        spread = model.logits([7, 300, 5]).std()
    assert 0.2 < spread < 0.6  # a logit is 256 products with weights of about 0.02, so near 0.32


# ---- servers ----------------------------------------------------------------------------------


def test_events_are_counted_however_they_are_cut() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    pieces = [b'14\r\ndata: {"a": 1}\n\n\r\n' for _ in range(5)]
    last = b'20\r\ndata: {"completion_tokens": 42}\n\n\r\ndata: [DONE]\n\n\r\n0\r\n\r\n'
    answer = head + b"".join(pieces) + last
    for size in (1, 7, 50, len(answer)):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connection = serving_http.Connection(listening.getsockname()[1])
            served, _ = listening.accept()
            with served, connection.socket:
                connection.ask("/", {})
                assert served.recv(1 << 16).startswith(b"POST / HTTP/1.1\r\n")
                is_whole = False
                for start in range(0, len(answer), size):
                    assert not is_whole
                    served.sendall(answer[start : start + size])
                    is_whole = connection.read()
                assert is_whole
        assert len(connection.answer.times) == 6
        assert connection.answer.n_tokens == 42


def test_a_server_is_measured_through_a_connection(nano: StarChat) -> None:
    with serving(nano) as served:
        one = serving_http.one_reader(served.port, 2)
        assert one.keys() == serving_http.one_caller(nano, 2).keys()
        many = serving_http.many_readers(served.port, 3, 8, 1, own=True)
    assert min(*one.values(), many["tokens/s"], many["first ms"]) > 0


# ---- guesses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("type", ["q4_0", "q5_1", "q8_0", "f16"])
def test_a_model_that_recites_counts_up(type: str, tmp_path: Path) -> None:
    path = tmp_path / "reciting.bin"
    random_model.write_bin(
        path, random_model.SHAPES["tiny"], type, draw=speculation.reciting_tensor
    )
    with StarChat.load(path, n_threads=1) as model:
        prompt = [7, 300, 5, 400, 20]
        reply = model.complete(prompt, max_tokens=40, temperature=0, ignore_eos=True)
        assert reply.token_ids == (*range(21, 61),)


@pytest.mark.parametrize(
    ("name", "share"),
    [*zip(speculation.TASKS, [1, 29 / 30, 9 / 10, 9 / 10, 0, 1], strict=True)],
)
def test_the_prompt_holds_as_much_of_the_reply_as_its_task_says(name: str, share: float) -> None:
    prompt, reply = speculation.TASKS[name](random.Random(0), 60, range(1000, 9000))
    assert prompt[-1] == 1000 and reply == [*range(1001, 1061)]
    assert len({*prompt[:-1]} & {*reply}) / 60 == pytest.approx(share, abs=0.02)


# ---- the page -------------------------------------------------------------------------------


def test_ratios_and_shares_are_made_within_a_round() -> None:
    share = comparison.shares(peers_result()["types"][0], 2)
    # 400e9 of 1000e9, 200e9 of 800e9; 10e9 of 20e9, 12e9 of 16e9
    assert share["prefill"]["512"] == Spread(0.325, 0.25, 0.4)
    assert share["decode"]["64"] == Spread(0.625, 0.5, 0.75)


def figures(shown: str, name: str) -> list[list[float]]:
    """Return the numbers of each line that begins with a name, whatever stands between them."""
    rests = re.findall(rf"^[-| ]*{re.escape(name)}(?=[ :])(.*)$", shown, re.MULTILINE)
    return [[float(text) for text in re.findall(r"\d+(?:\.\d+)?", rest)] for rest in rests]


def test_the_page_shows_every_figure_with_spread_command_and_machine() -> None:
    page = "before\n<!-- begin: peers -->\nold\n<!-- end: peers -->\nafter\n"
    shown = report.render(page, [peers_result()])
    assert shown.startswith("before\n") and shown.endswith("after\n") and "old" not in shown
    ours, theirs, ratio = [300, 200, 400], [75, 50, 100], [4, 4, 4]  # median, least, most
    assert figures(shown, "q4_0, 512") == [[*ours, *theirs, *ratio, 32, 25, 40]]  # % of the peak
    assert "- ctransformers is left out of q4_0: `cannot allocate`" in shown
    assert "`python benchmarks/peers.py`, 2026-01-02, A Processor, 2 cores, 16 GB" in shown
    assert report.render(shown, [peers_result()]) == shown


def test_the_page_shows_kernels_and_limits() -> None:
    page = "".join(f"<!-- begin: {n} -->\n<!-- end: {n} -->\n" for n in ("limits", "kernels"))
    shown = report.render(page, [kernels_result()])
    assert figures(shown, "read bandwidth, 2 threads") == [[18, 16, 20]]
    # GB/s of 1e8 bytes in 0.02 s; 1e9 and 64e9 operations a product, with their shares of a limit
    assert figures(shown, "q4_0 avx512") == [[5, 50, 25, 400, 40]]
    assert figures(shown, "avx512") == [[20, 20], [2]]  # 1e6 operations in 50 µs; 2 µs
    assert "at most 100%" in shown


def test_the_page_shows_tables_of_samples_and_what_is_missing() -> None:
    page = "".join(f"<!-- begin: {n} -->\n<!-- end: {n} -->\n" for n in ("serving", "peers"))
    rows = {"1 request": {"tokens/s": [10.0, 12.0]}, "2 requests": {"first ms": [5.0]}}
    serving = result("serving", tables=[{"caption": "Threads:", "rows": rows}])
    shown = report.render(page, [serving])
    assert "| 1 request | 11.0 (10.0 to 12.0) |  |" in shown
    assert "Not measured yet: `benchmarks/peers.py --json`." in shown


@pytest.mark.parametrize(
    ("page", "results", "sentence"),
    [
        pytest.param("", [result("nothing")], "nothing: there is no section", id="result"),
        pytest.param("<!-- begin: x -->\n<!-- end: x -->", [], "block x: unknown", id="block"),
    ],
)
def test_what_a_report_cannot_show_is_told(
    page: str, results: list[dict[str, Any]], sentence: str
) -> None:
    with pytest.raises(report.ReportError, match=sentence):
        report.render(page, results)


def test_the_picture_is_an_image_with_every_point_inside_its_frame() -> None:
    root = ElementTree.fromstring(roofline.roofline(kernels_result()))
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f"{space}circle")
    assert len(circles) == 2
    for circle in circles:
        assert roofline.LEFT <= float(circle.attrib["cx"]) <= roofline.WIDTH - roofline.RIGHT
        assert roofline.TOP <= float(circle.attrib["cy"]) <= roofline.HEIGHT - roofline.BOTTOM
    texts = [text.text for text in root.findall(f"{space}text")]
    assert {"avx512, 2 threads", "8-bit peak 1,000", "f32 peak 200", "read 20 GB/s", "q4_0"} <= {
        *texts
    }


def test_the_published_page_is_what_the_results_give() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/report.py"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_the_commands_that_the_page_shows_have_options_that_exist() -> None:
    page = report.PAGE.read_text().replace("\\\n", " ")
    commands = re.findall(r"^python benchmarks/(\w+)\.py (.*)$", page, re.MULTILINE)
    assert len(commands) >= 4
    parsers = {"peers": peers.parse, "kernels": kernels.parse, "speculation": speculation.parse}
    for name, options in commands:
        if name in parsers:
            parsers[name](options.split())
