"""Models by their names: what is fetched from a hub, resumed, checked, refused and found again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from typer.testing import CliRunner

from starchat import (
    CorruptFileError,
    DownloadError,
    FileAccessError,
    Loader,
    StarChat,
    UnsupportedFeatureError,
    UnsupportedFormatError,
)
from starchat.cli.app import app
from starchat.hub import cache, download, find, pull, retries
from starchat.hub.files import RepoFile, choose, quant_of
from starchat.hub.names import SHORT_NAMES, HubName, hub_name, is_safe
from starchat.model_path import model_name, model_path
from starchat.model_settings import ModelSettings
from support.folders import checkpoint, write_folder
from support.gguf_files import write_gguf
from support.loopback_hub import PIECE_BYTES, Answer, Hub, loopback_hub, sha256
from support.tiny_model import write_tiny

REPO = "TheBloke/tiny-GGML"
FILE = "tiny.ggmlv3.q8_0.bin"
MB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with loopback_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Return an empty hub, which is the one that names mean, and an empty cache."""
    with_endpoint = {"HF_ENDPOINT": server.endpoint, "HF_HUB_CACHE": str(tmp_path / "cache")}
    for name, value in with_endpoint.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "_TICK_S", 0.01)
    monkeypatch.setattr(cache, "_POLL_S", 0.01)
    fresh = Hub()
    fresh.endpoint, fresh.second = server.endpoint, server.second
    server.__dict__.update(fresh.__dict__)
    return server


def noise(n_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(n_bytes)


def pulled(text: str, **options: Any) -> Path:
    name = hub_name(text)
    assert name
    return Path(pull.pull(name, **options))


def parts(cache_folder: Path) -> list[Path]:
    return sorted(cache_folder.rglob("*.incomplete"))


# ---- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("o/r", HubName("o/r")),
        ("o/r:Q4_K_M", HubName("o/r", quant="Q4_K_M")),
        ("o/r:latest", HubName("o/r")),
        ("o/r@v1:q8_0", HubName("o/r", "v1", quant="q8_0")),
        ("hf.co/o/r:q4_0", HubName("o/r", quant="q4_0")),
        ("huggingface.co/o/r", HubName("o/r")),
        ("hf://o/r", HubName("o/r")),
        ("hf://o/r/a.gguf", HubName("o/r", path="a.gguf")),
        ("hf://models/o/r/d/a.gguf", HubName("o/r", path="d/a.gguf")),
        ("hf://o/r@v1/a.gguf", HubName("o/r", "v1", "a.gguf")),
        ("hf://o/r@refs/pr/7/a.gguf", HubName("o/r", "refs/pr/7", "a.gguf")),
        ("hf://o/r@a%2Fb/a.gguf", HubName("o/r", "a/b", "a.gguf")),
        (
            "https://huggingface.co/o/r/resolve/main/a.gguf?download=true",
            HubName("o/r", path="a.gguf"),
        ),
        ("https://huggingface.co/o/r/tree/v1", HubName("o/r", "v1")),
        ("StarChat-Beta:q4_0", HubName("TheBloke/starchat-beta-GGML", quant="q4_0")),
    ],
)
def test_a_name_says_which_model(text: str, name: HubName) -> None:
    assert model_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["model.bin", "o/r.gguf", "./o/r", "/o/r", "~/o/r", "../o/r", "o", "o/r/x", "a b/c", "o/..",
     "o/.git", "C:\\o\\r", "https://example.org/o/r", "https://[x/o/r", "o/r:q4/0", "", "\0"],
)  # fmt: skip
def test_other_texts_are_no_names(text: str) -> None:
    assert model_name(text) is None


@pytest.mark.parametrize(
    "text", ["hf://datasets/o/r/x", "hf://o", "hf://o/r/../x", "hf.co/o", "hf://o/r@../x", "hf://"]
)
def test_an_address_that_names_no_model_is_refused(text: str) -> None:
    with pytest.raises(FileAccessError, match="expected OWNER/REPO"):
        model_name(text)


def test_a_path_that_exists_is_never_a_name(
    hub: Hub, tiny_model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "o").mkdir()
    for path in ("o/r", "starchat-beta"):
        (tmp_path / path).symlink_to(tiny_model_path)
        assert model_path(path) == path
    with pytest.raises(FileAccessError, match=r"hf://o2/r/x\.gguf"):
        StarChat.load("o2/r/x.gguf")
    with pytest.raises(FileAccessError, match="did you mean santacoder, which is fetched"):
        StarChat.load("santacodr")
    assert not hub.requests


def test_a_name_that_is_not_found_mentions_the_path_that_it_resembles(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "starchat.bin").touch()
    with pytest.raises(
        FileAccessError, match=r"HTTP 404.*did you mean the path models/starchat\.bin"
    ):
        StarChat.load("models/starchat")


# ---- which file -----------------------------------------------------------------------------

GB = 10**9
SIZES = {"a.Q2_K.gguf": 6, "a.Q4_K_M.gguf": 10, "a.Q8_0.gguf": 17, "a.f16.gguf": 32}


def listed(**more: int) -> list[RepoFile]:
    return [RepoFile(path, size * GB) for path, size in (SIZES | more).items()]


@pytest.mark.parametrize(
    ("free", "path"), [(8, "a.Q2_K.gguf"), (11, "a.Q4_K_M.gguf"), (64, "a.Q8_0.gguf")]
)
def test_the_largest_quantization_that_fits_is_chosen_and_the_reason_told(
    free: int, path: str
) -> None:
    choice = choose(listed(), HubName("o/r"), free * GB)
    assert choice.model.path == path
    assert (
        f"the largest of 3 that fits into the {free}.0 GB of memory that is free" in choice.reason
    )


def test_where_none_fits_the_sizes_are_told() -> None:
    with pytest.raises(
        FileAccessError, match=r"fits into the 2\.0 GB.*Q2_K \(6\.00 GB\).*o/r:Q2_K"
    ):
        choose(listed(), HubName("o/r"), 2 * GB)


@pytest.mark.parametrize(
    ("quant", "path"),
    [("q4_k_m", "a.Q4_K_M.gguf"), ("F16", "a.f16.gguf"), ("fp16", "a.f16.gguf"),
     ("Q5_1", "b.ggmlv3.q5_1.bin")],
)  # fmt: skip
def test_a_named_quantization_is_taken_whatever_the_memory(quant: str, path: str) -> None:
    files = [*listed(), RepoFile("b.ggmlv3.q5_1.bin", GB)]
    assert choose(files, HubName("o/r", quant=quant), 0).model.path == path


def test_a_quantization_that_is_not_there_lists_what_is() -> None:
    with pytest.raises(FileAccessError, match=r"no such quantization; there is: Q2_K \(6\.00 GB\)"):
        choose(listed(), HubName("o/r", quant="Q4_K"), None)


@pytest.mark.parametrize("quant", ["IQ2_XS", "Q4_0_4_4", "TQ1_0"])
def test_types_that_are_not_read_are_never_fetched(quant: str) -> None:
    files = [RepoFile(f"a.i1-{quant}.gguf", GB), RepoFile("a.Q4_0.gguf", 10 * GB)]
    assert choose(files, HubName("o/r"), 100 * GB).model.path == "a.Q4_0.gguf"
    with pytest.raises(UnsupportedFormatError, match=r"take one of: Q4_0"):
        choose(files, HubName("o/r", quant=quant), None)
    with pytest.raises(UnsupportedFormatError, match="reads none of its types"):
        choose(files[:1], HubName("o/r"), None)


def test_all_shards_are_one_model() -> None:
    shards = [RepoFile(f"Q8_0/a-0000{n}-of-00003.gguf", GB) for n in (3, 1, 2)]
    files = [*shards, RepoFile("mmproj-a.Q8_0.gguf", 1), RepoFile("a.imatrix.gguf", 1)]
    for name in HubName("o/r", quant="q8_0"), HubName("o/r"), HubName("o/r", path=shards[0].path):
        model = choose(files, name, None).model
        assert model.path == "Q8_0/a-00001-of-00003.gguf"
        assert [file.path for file in model.files] == sorted(file.path for file in shards)
    with pytest.raises(FileAccessError, match="lacks other shards"):
        choose(files[1:], HubName("o/r", path=shards[1].path), None)
    with pytest.raises(FileAccessError, match="no such quantization"):
        choose(files[1:], HubName("o/r", quant="q8_0"), None)


def test_a_checkpoint_is_taken_as_a_folder_without_what_it_does_not_need() -> None:
    weights = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    needed = [
        "config.json",
        "tokenizer.json",
        "merges.txt",
        "model.safetensors.index.json",
        "README.md",
    ]
    other = [
        "pytorch_model-00001-of-00001.bin",
        "optimizer.pt",
        "runs/x.json",
        "adapter.safetensors",
    ]
    files = [RepoFile(path, 1) for path in (*weights, *needed, *other)]
    choice = choose(files, HubName("o/r"), None)
    assert choice.model.path == ""
    assert {file.path for file in choice.model.files} == {*weights, *needed}
    assert "the checkpoint, as" in choice.reason
    with pytest.raises(FileAccessError, match="the checkpoint is taken, and starchat convert"):
        choose(files, HubName("o/r", quant="Q4_0"), None)
    with pytest.raises(FileAccessError, match=r"no GGUF file.*there is: README\.md"):
        choose([RepoFile("README.md", 1)], HubName("o/r"), None)


def test_a_file_that_is_not_there_lists_near_ones() -> None:
    with pytest.raises(FileAccessError, match=r"no such file; there is: a\.Q4_K_M\.gguf"):
        choose(listed(), HubName("o/r", path="a.q4_k_m.gguf"), None)


@pytest.mark.parametrize(
    ("path", "quant"),
    [("starcoder.i1-IQ4_XS.gguf", "IQ4_XS"), ("a-UD-Q4_K_XL.gguf", "Q4_K_XL"),
     ("pytorch_model.bin", ""),
     ("a.Q4_K_M-00001-of-00002.gguf", "Q4_K_M"), ("a-BF16.gguf", "BF16"), ("q2-code.gguf", "Q2")],
)  # fmt: skip
def test_the_quantization_is_read_from_a_files_name(path: str, quant: str) -> None:
    assert quant_of(path) == quant


# ---- fetching -------------------------------------------------------------------------------


def test_a_name_is_fetched_once_and_loads_offline_ever_after(
    hub: Hub,
    tiny_model_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tiny_model_path.read_bytes()
    hub.put(REPO, {FILE: data, "README.md": b"a card"})
    told: list[tuple[int, int]] = []
    with StarChat.load(REPO, progress=lambda *done: told.append(done)) as model:
        assert model.info.file.endswith(FILE)
    assert (len(data), len(data)) in told
    n_requests = len(hub.requests)
    with StarChat.load(f"hf.co/{REPO}:Q8_0"), StarChat.load(f"hf://{REPO}/{FILE}"):
        assert len(hub.requests) == n_requests
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pulled(REPO).read_bytes() == data
    with pytest.raises(FileAccessError, match=r"o/r: is not in .*cache, and HF_HUB_OFFLINE"):
        StarChat.load("o/r")
    assert len(hub.requests) == n_requests
    assert capsys.readouterr().err == ""


def test_the_cache_is_the_one_that_huggingface_hub_reads(hub: Hub, tmp_path: Path) -> None:
    hub.put(REPO, {FILE: noise(1000), "b.q4_0.bin": noise(500, 2), "config.json": b"{}"})
    path, folder = pulled(f"{REPO}:q8_0"), tmp_path / "cache"
    assert path.resolve() == path.parents[2] / "blobs" / sha256(noise(1000))
    assert huggingface_hub.try_to_load_from_cache(REPO, FILE, cache_dir=folder) == str(path)
    known = huggingface_hub.scan_cache_dir(folder)
    assert not known.warnings
    assert [f.file_name for r in known.repos for v in r.revisions for f in v.files] == [FILE]
    for local in True, False:
        found = huggingface_hub.hf_hub_download(
            REPO, FILE, cache_dir=folder, local_files_only=local, endpoint=hub.endpoint
        )
        assert found == str(path)
    assert len(hub.contents()) == 2  # our redirect and its end: hub fetched nothing

    theirs = huggingface_hub.hf_hub_download(
        REPO, "b.q4_0.bin", cache_dir=folder, endpoint=hub.endpoint
    )
    n_requests = len(hub.requests)
    assert model_path(f"{REPO}:q4_0") == theirs
    assert len(hub.requests) == n_requests


@pytest.mark.parametrize("listed_sizes", [True, False])
def test_metadata_comes_from_the_list_or_from_each_file(
    hub: Hub, listed_sizes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(REPO, {"a.q4_0.bin": noise(300), "a.q8_0.bin": noise(600), "config.json": b"{}"})
    hub.faults.listed_sizes = listed_sizes
    monkeypatch.setattr(pull, "free_bytes", lambda: (512 << 20) + 400)
    said: list[str] = []
    assert pulled(REPO, say=said.append).read_bytes() == noise(300)
    assert "a.q4_0.bin: the largest of 2 that fits" in said[0]


def test_a_gguf_file_in_shards_is_fetched_whole_and_loads(hub: Hub, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "model.bin", "f16")
    write_gguf(
        tmp_path / "a-F16.gguf",
        model.weights,
        model.shape,
        lambda name: "f32" if name == "model/wpe" else "f16",
        split_max_tensors=9,
    )
    shards = sorted(tmp_path.glob("a-F16-*.gguf"))
    assert len(shards) > 2
    hub.put("o/r", {f"F16/{path.name}": path.read_bytes() for path in shards})
    with StarChat.load("o/r:f16") as fetched, StarChat.load(tmp_path / "model.bin") as same:
        assert fetched.info.n_params == same.info.n_params
        assert (fetched.logits([1, 2]) == same.logits([1, 2])).all()


def test_a_folder_is_fetched_whole(hub: Hub) -> None:
    files = {"config.json": b"{}", "tokenizer.json": b"{ }", "model.safetensors": noise(5000)}
    hub.put("o/r", files | {"training.log": b"x"})
    folder = pulled("o/r")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert find.find(HubName("o/r")) == str(folder)


def test_a_checkpoint_loads_by_its_name(hub: Hub, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", checkpoint())
    hub.put("o/r", {path.name: path.read_bytes() for path in folder.iterdir()})
    with StarChat.load("o/r") as fetched, StarChat.load(folder) as same:
        assert (fetched.logits([1, 2]) == same.logits([1, 2])).all()


def test_a_download_goes_on_where_an_earlier_one_ended(hub: Hub, tmp_path: Path) -> None:
    """Every MB the process is gone: in all, no more than the file and a chunk each is sent."""
    data = noise(4 * MB + 77)
    hub.put(REPO, {FILE: data})
    hub.faults.piece_s = 0.0005
    for n in range(1, 5):

        def stop(done: int, total: int, most: int = n * MB) -> None:
            if done >= most:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pulled(REPO, report=stop)
        (part,) = parts(tmp_path)
        assert n * MB <= part.stat().st_size < n * MB + download.CHUNK_BYTES + 1
        assert find.find(HubName(REPO)) is None
    assert pulled(REPO).read_bytes() == data
    assert not parts(tmp_path)
    ranges = [int(h["Range"][6:-1]) for h in hub.contents() if "Range" in h]
    assert ranges == sorted(ranges) and ranges[-1] >= 3 * MB


def test_a_cut_connection_is_made_anew_and_the_token_stays_at_home(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    data = noise(1000)
    hub.put(REPO, {FILE: data})
    hub.faults.needs_token = True
    hub.faults.cuts = [300, 300]
    hub.faults.content = [Answer(503)]
    assert pulled(REPO).read_bytes() == data
    second = [h for h in hub.contents() if f":{h['Host'].split(':')[1]}" in hub.second]
    assert len(second) == 4
    assert not [h for h in second if "Authorization" in h]
    assert [h.get("Range") for h in second] == [None, None, "bytes=300-", "bytes=600-"]
    assert hub.sent_bytes == len(data)


def test_a_server_without_ranges_sends_all_again(hub: Hub) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.ranges = False
    hub.faults.cuts = [300, 600]
    assert pulled(REPO).read_bytes() == noise(1000)
    assert hub.sent_bytes == 300 + 600 + 1000


def test_failures_count_only_in_a_row(hub: Hub) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.cuts = [100] * 9
    assert pulled(REPO).read_bytes() == noise(1000)
    assert hub.sent_bytes == 1000


def test_a_range_that_the_server_does_not_have_is_fetched_from_the_beginning(hub: Hub) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.cuts, hub.faults.content = [300], [None, Answer(416)]
    assert pulled(REPO).read_bytes() == noise(1000)
    assert hub.sent_bytes == 1300


def test_a_server_that_never_gets_further_is_given_up(hub: Hub, tmp_path: Path) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.cuts = [300] + [0] * 20
    with pytest.raises(
        DownloadError, match=r"cut \(5 tries in a row\): 300 of 1,000 bytes are kept"
    ):
        pulled(REPO)
    assert parts(tmp_path)[0].stat().st_size == 300
    hub.faults.cuts = []
    assert pulled(REPO).read_bytes() == noise(1000)
    assert hub.sent_bytes == 1000


@pytest.mark.parametrize("kept", [b"", noise(400, 2), noise(1000, 2), noise(1300, 2)])
def test_bytes_that_do_not_belong_to_the_file_are_fetched_again(
    hub: Hub, tmp_path: Path, kept: bytes
) -> None:
    data = noise(1000)
    hub.put(REPO, {FILE: data})
    hub.faults.cuts = [300]
    hub.faults.content = [None, Answer(404)]
    with pytest.raises(FileAccessError, match="no such file"):
        pulled(REPO)
    (part,) = parts(tmp_path)
    part.write_bytes(kept)
    assert pulled(REPO).read_bytes() == data


def test_a_file_that_changes_between_two_pulls_is_another_file(hub: Hub, tmp_path: Path) -> None:
    hub.put(REPO, {FILE: noise(1000), "other.q4_0.bin": noise(200)})
    pulled(f"{REPO}:q4_0")
    hub.faults.cuts, hub.faults.content = [300], [None, Answer(404)]
    with pytest.raises(FileAccessError):
        pulled(f"{REPO}:q8_0")
    hub.repos[REPO][FILE] = noise(1000, 2)
    assert pulled(f"{REPO}:q8_0").read_bytes() == noise(1000, 2)
    n_bytes = hub.sent_bytes
    assert find.find(HubName(REPO, quant="q4_0"))  # unchanged: in the new commit, too
    assert pulled(f"{REPO}:q4_0").read_bytes() == noise(200)
    assert hub.sent_bytes == n_bytes


@pytest.mark.parametrize("name", [FILE, "config.json"])
def test_wrong_bytes_of_the_right_number_are_refused_and_removed(
    hub: Hub, tmp_path: Path, name: str
) -> None:
    hub.put(REPO, {FILE: noise(1000), "config.json": b"{}"})
    hub.faults.garbage = 2
    with pytest.raises(CorruptFileError, match=r"the checksum of its .* bytes is not the one"):
        pulled(f"hf://{REPO}/{name}")
    assert not parts(tmp_path) and not [*tmp_path.rglob("snapshots/*/*")]
    hub.faults.garbage = 0
    assert pulled(f"hf://{REPO}/{name}").read_bytes() == hub.repos[REPO][name]


def test_a_blob_of_a_wrong_size_is_fetched_again(hub: Hub) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    path = pulled(REPO)
    path.resolve().write_bytes(b"cut")
    assert pulled(REPO).read_bytes() == noise(1000)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(200, {"Content-Type": "text/html"}, b"<html>"), "6 bytes of text/html: a proxy"),
        (Answer(200, {"Content-Type": "text/html"}, b"<" * 1000), "1,000 bytes of text/html"),
        (Answer(200, {}, b"x" * 999), "expected 1,000 bytes, the server sends 999 bytes"),
        (Answer(206, {"Content-Range": "bytes 5-999/1000"}, b"x" * 995), "'bytes 5-999/1000' of"),
        (Answer(418), "answers HTTP 418"),
        (Answer(429, {"Retry-After": "9999"}), "answers 429: it asks to wait 9,999 s"),
        (Answer(302, {"Location": "file:///etc/passwd"}), "file:///etc/passwd' is not allowed"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_the_file_is_named(hub: Hub, answer: Answer, problem: str) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.content = [answer]
    with pytest.raises(DownloadError, match=problem):
        pulled(REPO)


def test_a_busy_server_is_asked_again_when_it_says(hub: Hub) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.api = [Answer(429, {"Retry-After": "0"}), Answer(502)]
    hub.faults.content = [Answer(429, {"Retry-After": "0.1"}), Answer(500)]
    said: list[str] = []
    start = time.monotonic()
    assert pulled(REPO, say=said.append).read_bytes() == noise(1000)
    assert time.monotonic() - start > 0.1
    assert len([line for line in said if "next try in" in line]) == 4


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(401, {"X-Error-Message": "Invalid credentials in it"}), "token is not valid"),
        (Answer(401), "does not exist, or is private .HTTP 401.*HF_TOKEN"),
        (Answer(403, {"X-Error-Code": "GatedRepo"}), "is gated .*ask for access on"),
        (Answer(403), "is gated or closed to you"),
        (Answer(404, {"X-Error-Code": "RepoNotFound"}), "no such repository .*starchat-beta"),
        (Answer(404, {"X-Error-Code": "RevisionNotFound"}), "has no revision main"),
    ],
)  # fmt: skip
def test_a_refusal_says_why_and_what_to_do(hub: Hub, answer: Answer, problem: str) -> None:
    hub.faults.api = [answer]
    with pytest.raises(FileAccessError, match=problem):
        pulled(REPO)
    assert len(hub.requests) == 1


def test_a_file_may_be_gated_although_its_list_is_not(hub: Hub, tmp_path: Path) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.hidden = (FILE,)
    with pytest.raises(FileAccessError, match="gated"):
        pulled(REPO)
    assert not parts(tmp_path)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"id": "o/r", "sha": "../x"}'])
def test_what_is_no_hub_is_told(hub: Hub, body: bytes) -> None:
    hub.faults.api = [Answer(200, {"Content-Type": "text/html"}, body)]
    with pytest.raises(DownloadError, match=r"answers, but .* no hub .*check HF_ENDPOINT"):
        pulled(REPO)


@pytest.mark.parametrize("etag", ["../../../x", "a/b", ".", "x" * 200])
def test_a_checksum_that_cannot_name_a_file_is_refused(hub: Hub, tmp_path: Path, etag: str) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.etag = etag
    with pytest.raises(DownloadError, match="has no ETag that can name a file"):
        pulled(REPO)
    assert not [*tmp_path.iterdir()]


def test_a_hub_that_cannot_be_reached_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        StarChat.load(REPO)


@pytest.mark.parametrize(
    "path",
    ["../x.gguf", "/x.gguf", "a/../../x.gguf", "a//x.gguf", "a\\..\\x.gguf", "\x1b.gguf", "."],
)
def test_names_that_lead_out_of_the_folder_are_not_taken(hub: Hub, path: str) -> None:
    assert not is_safe(path)
    hub.put(REPO, {path: noise(1000)})
    with pytest.raises(FileAccessError, match="has no GGUF file"):
        pulled(REPO)
    assert not hub.contents()


def gguf(architecture: bytes, size: int) -> bytes:
    key, length = b"general.architecture", len(architecture).to_bytes(8, "little")
    head = b"GGUF" + bytes([3, *[0] * 19]) + len(key).to_bytes(8, "little") + key
    return (head + bytes([8, 0, 0, 0]) + length + architecture + b"-\0\0").ljust(size, b"\0")


def test_a_file_of_another_architecture_is_refused_by_its_beginning(
    hub: Hub, tmp_path: Path
) -> None:
    hub.put(REPO, {"a.q4_0.gguf": gguf(b"llama", 4 * MB), "a.q8_0.gguf": gguf(b"starcoder", 99)})
    hub.faults.piece_s = 0.002
    with pytest.raises(UnsupportedFormatError, match="of the architecture llama; starchat runs"):
        pulled(f"{REPO}:q4_0")
    assert hub.sent_bytes < 3 * MB and not parts(tmp_path)
    assert pulled(f"{REPO}:q8_0").stat().st_size == 99


def test_a_server_that_sends_nothing_is_asked_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(REPO, {FILE: noise(2 * PIECE_BYTES)})
    hub.faults.piece_s = 1.0
    monkeypatch.setattr(download, "STALL_S", 0.5)
    said: list[str] = []
    assert pulled(REPO, say=said.append).read_bytes() == noise(2 * PIECE_BYTES)
    assert [line for line in said if "timed out: next try" in line]
    assert hub.contents()[-1]["Range"] == f"bytes={PIECE_BYTES}-"


def test_bytes_that_nothing_can_check_are_never_taken_over(hub: Hub, tmp_path: Path) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.listed_sizes, hub.faults.etag = False, "v1"
    hub.faults.cuts, hub.faults.content = [300], [None, Answer(404)]
    with pytest.raises(FileAccessError, match="no such file"):
        pulled(REPO)
    (part,) = parts(tmp_path)
    part.write_bytes(bytes(300))
    assert pulled(REPO).read_bytes() == noise(1000)


def test_a_checksum_that_only_the_file_itself_has_is_compared(hub: Hub) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.listed_sizes, hub.faults.garbage = False, 1
    with pytest.raises(CorruptFileError, match="checksum"):
        pulled(REPO)


def test_a_redirect_is_not_followed_to_where_bytes_are_not_encrypted() -> None:
    redirect = download._Redirects().redirect_request
    request = urllib.request.Request("https://a.test/x", headers={"Authorization": "Bearer t"})
    with pytest.raises(DownloadError, match="which is not encrypted"):
        redirect(request, None, 302, "", {}, "http://a.test/y")
    same = redirect(request, None, 308, "", {}, "https://a.test/y")
    other = redirect(request, None, 302, "", {}, "https://a.test:444/y")
    assert [each.has_header("Authorization") for each in (same, other)] == [True, False]


def test_a_cache_that_cannot_be_written_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(FileAccessError, match=r"cannot be stored: .*HF_HUB_CACHE names the folder"):
        pulled(REPO)


def test_a_disk_without_room_is_told_before_the_first_byte(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    usage = type("Usage", (), {"free": 1049})
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        FileAccessError, match=r"needs 1,000 bytes and a twentieth .* has 1,049 free"
    ):
        pulled(REPO)
    assert not hub.contents()
    usage.free = 1050
    assert pulled(REPO)


def test_a_disk_that_fills_up_keeps_what_came(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.put(REPO, {FILE: noise(1000)})
    hub.faults.cuts = [600]

    def full(fd: int, data: bytes) -> None:
        raise download._Written(28, "No space left on device")

    write = download._write
    monkeypatch.setattr(
        download,
        "_write",
        lambda fd, data: (write if os.fstat(fd).st_size == 0 else full)(fd, data),
    )
    with pytest.raises(FileAccessError, match="the disk is full; what came is kept"):
        pulled(REPO)
    assert parts(tmp_path)[0].stat().st_size == 600


def test_two_at_once_fetch_one_copy(hub: Hub) -> None:
    data = noise(MB)
    hub.put(REPO, {FILE: data})
    hub.faults.piece_s = 0.01
    said: list[str] = []
    paths: list[Path] = []
    threads = [
        threading.Thread(target=lambda: paths.append(pulled(REPO, say=said.append)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3 and len({*paths}) == 1
    assert paths[0].read_bytes() == data
    assert hub.sent_bytes == len(data)
    assert [line for line in said if "another process is fetching it" in line]


def test_without_huggingface_hub_the_remedy_is_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnsupportedFeatureError, match=r'pip install "starchat\[hub\]"'):
        StarChat.load(REPO)


def test_awaiting_a_model_leaves_the_event_loop_free_and_cancels_the_download(
    hub: Hub, tiny_model_path: Path, tmp_path: Path
) -> None:
    hub.put(REPO, {FILE: tiny_model_path.read_bytes()})
    hub.put("o/slow", {FILE: noise(32 * MB)})  # 25 s

    def is_running() -> bool:
        return "starchat-download" in [thread.name for thread in threading.enumerate()]

    async def run() -> None:
        loader = Loader()
        loading = asyncio.ensure_future(loader.aload("o/slow"))
        hub.faults.piece_s = 0.05
        while not parts(tmp_path) and not loading.done():
            await asyncio.sleep(0.01)
        assert is_running()  # not in the executor, which holds up the end of a program
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        model = await loader.aload(REPO)
        assert model.info.file.endswith(FILE)
        model.close()

    asyncio.run(run())
    for _ in range(100):
        if not is_running():
            break
        time.sleep(0.02)
    else:
        pytest.fail("the download goes on")


def test_an_adapter_knows_its_file_before_and_after_it_is_fetched(
    hub: Hub, tiny_model_path: Path
) -> None:
    hub.put(REPO, {FILE: tiny_model_path.read_bytes()})
    settings = ModelSettings(model_path=REPO)
    assert (settings._context_size(), settings._file_state()) == (None, [])
    assert settings._is_absent and not hub.requests
    pulled(REPO)
    assert not settings._is_absent
    assert settings._context_size() == 512
    before = settings._file_state()
    assert settings.engine.info.n_ctx == 512
    assert settings._file_state() == before != []


def test_llama_index_may_look_at_a_model_that_is_not_fetched(hub: Hub) -> None:
    llms = pytest.importorskip("llama_index.llms.starchat")
    assert llms.StarChat(model=REPO).metadata.context_window == 2048
    assert llms.StarChat(model=REPO, n_ctx=512).metadata.context_window == 512
    assert not hub.requests


@pytest.mark.integration
def test_ctrl_c_ends_the_command_at_once_and_the_next_run_goes_on(hub: Hub, tmp_path: Path) -> None:
    data = noise(2 * MB)
    hub.put(REPO, {FILE: data})
    hub.faults.piece_s = 0.02
    command = [sys.executable, "-m", "starchat", "pull", REPO]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (parts(tmp_path) and parts(tmp_path)[0].stat().st_size > MB // 4):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    hub.faults.piece_s = 60  # it waits for the next byte
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=20)
    assert (first.returncode, b"Traceback" in error) == (130, False)
    hub.faults.piece_s = 0
    again = CliRunner().invoke(app, ["pull", REPO])
    assert again.exit_code == 0
    assert Path(again.stdout.strip()).read_bytes() == data
    assert "the only one that starchat reads" in again.stderr
    assert "Range" in hub.contents()[-1]


def test_short_names_are_those_of_the_docs() -> None:
    page = Path(__file__).parents[1].joinpath("docs", "models.md").read_text()
    rows = page.split("## Short names")[1].split("##")[0].splitlines()
    assert len([row for row in rows if row.startswith("| `")]) == len(SHORT_NAMES)
    for short, (repo, is_checked) in SHORT_NAMES.items():
        (row,) = [row for row in rows if row.startswith(f"| `{short}` | `{repo}` |")]
        assert ("unchecked" in row) == (not is_checked)
