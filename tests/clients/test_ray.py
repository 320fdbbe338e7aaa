"""Two replicas on a Ray cluster of this machine, with OpenAI's client: what holds when one dies."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from starchat import StarChat
from starchat.server.settings import ServerSettings
from support.server import N_CTX, serving

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")
psutil = pytest.importorskip("psutil")

QUESTION: Any = [{"role": "user", "content": "How do I sort a list in Python?"}]
LONG: dict[str, Any] = {  # never ends by itself
    "model": "starchat",
    "messages": QUESTION,
    "max_tokens": 1_900,
    "extra_body": {"ignore_eos": True},
}
SETTINGS = ServerSettings(
    ctx=N_CTX, threads=1, max_running=8, max_queue=4, ray=True, slots=True, drain_timeout=120.0
)


@dataclass
class Cluster:
    """Our application on Ray."""

    url: str
    deploy: Callable[[int], None]

    def client(self, **options: Any) -> openai.OpenAI:
        given: dict[str, Any] = {"max_retries": 0, "timeout": 120.0, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **given)

    def is_idle(self) -> bool:
        """Whether no replica has work. Sessions reach both; without one, the idler is asked."""
        sessions = [{"x-session-id": str(i)} for i in range(12)]
        answers = [httpx.get(f"{self.url}/slots", headers=each).json() for each in sessions]
        return not any(slot["is_processing"] for slots in answers for slot in slots)


def pids() -> set[int]:
    """Return the processes of our replicas."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica:starchat" in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.Error:
            pass
    return found


def wait(holds: Callable[[], bool], seconds: float) -> float:
    """Return the seconds until something holds; fail if it does not in time."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + seconds
        time.sleep(0.1)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    from starchat.server import ray as ours

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ[ours.PROXY_VARIABLE] = ours.PROXY_CALLBACK
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=100 << 20,
        log_to_driver=False,
    )
    mine = {process.pid for process in psutil.Process().children(recursive=True)}

    def deploy(n_replicas: int) -> None:
        deployment = ours.deployment(
            SETTINGS,
            ray_actor_options={"num_cpus": 0.5},
            max_replicas_per_node=2,
            autoscaling_config=None,
            num_replicas=n_replicas,
            health_check_period_s=2.0,
        )
        serve.run(deployment.bind(ours._on_replica(SETTINGS)), name=ours.NAME)

    try:
        began = time.monotonic()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        deploy(2)
        print(f"ready after {time.monotonic() - began:.1f} s")
        yield Cluster(f"http://127.0.0.1:{port}", deploy)
    finally:
        mine |= {process.pid for process in psutil.Process().children(recursive=True)}
        serve.shutdown()
        ray.shutdown()
    wait(lambda: not any(psutil.pid_exists(pid) for pid in mine), 30.0)


def stream(client: openai.OpenAI, **options: Any) -> tuple[str, str | None]:
    """Return the text of a stream, and its finish reason or the error that ended it."""
    text, reason = "", None
    try:
        for chunk in client.chat.completions.create(**{**LONG, **options}, stream=True):
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
    except (openai.OpenAIError, httpx.HTTPError) as error:
        return text, type(error).__name__
    return text, reason


def test_ray_asks_for_a_token(cluster: Cluster) -> None:
    from ray._raylet import AuthenticationMode, get_authentication_mode

    assert get_authentication_mode() == AuthenticationMode.TOKEN


def test_the_same_seed_gives_the_same_answer_as_without_ray(cluster: Cluster) -> None:
    options: dict[str, Any] = {"model": "starchat", "messages": QUESTION, "seed": 7}
    options |= {"temperature": 1.0, "max_tokens": 64, "logprobs": True, "top_logprobs": 2}

    def answer(client: openai.OpenAI) -> str:
        given = client.chat.completions.create(**options).model_dump()
        return json.dumps(given["choices"])

    with StarChat.load(n_ctx=N_CTX) as model, serving(model) as served:
        alone = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
        assert {answer(cluster.client()) for _ in range(4)} == {answer(alone)}
        text = stream(alone, seed=7, temperature=1.0, max_tokens=64)
        assert stream(cluster.client(), seed=7, temperature=1.0, max_tokens=64) == text


def test_conversations_stay_with_their_replica(cluster: Cluster) -> None:
    client = cluster.client()
    for subject in ("lists", "files", "sockets", "threads"):
        messages = [{"role": "user", "content": f"Tell me about {subject}. " * 8}]
        for turn in range(4):
            answer: Any = client.chat.completions.create(
                model="starchat", messages=messages, max_tokens=16
            )
            usage = answer.usage
            if turn:
                assert usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens // 2
            messages += [answer.choices[0].message.model_dump(include={"role", "content"})]
            messages += [{"role": "user", "content": "Go on."}]


@pytest.mark.parametrize("headers", [{}, {"x-request-disconnect-disabled": "?1"}])
def test_work_ends_when_the_client_goes(cluster: Cluster, headers: dict[str, str]) -> None:
    answer = cluster.client().chat.completions.create(
        **LONG, n=8, stream=True, extra_headers=headers
    )
    chunks = iter(answer)
    next(chunks)
    assert not cluster.is_idle()
    answer.close()
    print(f"idle after {wait(cluster.is_idle, 2.0):.2f} s")


def test_too_many_requests_get_our_503(cluster: Cluster) -> None:
    def ask(_: int) -> openai.APIStatusError | None:
        try:
            cluster.client().chat.completions.create(**LONG)
        except openai.APIStatusError as error:
            return error
        return None

    with ThreadPoolExecutor(48) as pool:
        errors = [error for error in pool.map(ask, range(48)) if error is not None]
    assert 0 < len(errors) < 48
    assert {(error.status_code, error.code) for error in errors} == {(503, "overloaded")}
    assert all(int(error.response.headers["retry-after"]) > 0 for error in errors)


def test_a_killed_replica_leaves_no_client_hanging_or_silently_short(cluster: Cluster) -> None:
    client, patient = cluster.client(), cluster.client(max_retries=2)
    before = pids()
    assert len(before) == 2
    whole = stream(client, seed=3)
    assert whole[1] == "length"

    def plain(_: int) -> str:
        return patient.chat.completions.create(**LONG, seed=3).choices[0].message.content or ""

    with ThreadPoolExecutor(12) as pool:
        # Sessions of their own, as equal prompts would all prefer one replica.
        named = [{"x-session-id": str(i)} for i in range(8)]
        streams = [pool.submit(stream, client, seed=3, extra_headers=name) for name in named]
        plains = [pool.submit(plain, i) for i in range(4)]
        time.sleep(1.0)
        os.kill(min(before), 9)
        killed = time.monotonic()
        after = stream(client, seed=3)
        ended = [each.result() for each in streams]
        answers = [each.result() for each in plains]
    cut = [each for each in ended if each[1] != "length"]
    print(f"{len(cut)} of 8 streams cut: {sorted({str(reason) for _, reason in cut})}")
    assert all(each == whole for each in ended if each not in cut)
    assert all(reason is not None and whole[0].startswith(text) for text, reason in cut)
    assert 0 < len(cut) < 8
    assert answers == [whole[0]] * 4
    assert after == whole
    wait(lambda: len(pids()) == 2 and min(before) not in pids(), 60.0)
    wait(lambda: _running() == 2, 60.0)
    print(f"second replica back after {time.monotonic() - killed:.1f} s")
    assert time.monotonic() - killed < 30


def _running() -> int:
    replicas: dict[str, int] = (
        serve.status().applications["starchat"].deployments["starchat"].replica_states
    )
    return int(replicas.get("RUNNING", 0))


def test_figures_of_replicas_are_among_rays(cluster: Cluster) -> None:
    port = ray.nodes()[0]["MetricsExportPort"]
    texts: list[str] = []

    def is_there() -> bool:
        texts.append(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        return "starchat_request_success" in texts[-1]

    wait(is_there, 40.0)
    lines = [line for line in texts[-1].split("\n") if "starchat_request_success" in line]
    assert any('replica="' in line for line in lines), lines


def test_scaling_in_loses_nothing(cluster: Cluster) -> None:
    client = cluster.client()
    whole = stream(client, seed=3)
    named = [{"x-session-id": str(i)} for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream, client, seed=3, extra_headers=name) for name in named]
        time.sleep(0.5)
        cluster.deploy(1)
        assert [each.result() for each in streams] == [whole] * 8
    wait(lambda: len(pids()) == 1, 60.0)
