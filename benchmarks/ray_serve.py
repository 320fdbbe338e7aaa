"""Requests a second through Ray Serve and without it, and how a cluster starts and heals.

python benchmarks/ray_serve.py    the embedded model, on the cores of this machine
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import ray
from ray import serve

from starchat.server import ray as scaled
from starchat.server.settings import ServerSettings

SECONDS = float(os.environ.get("SECONDS", "10"))
CLIENTS = 8
N_TOKENS = 64


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait(holds: Callable[[], bool]) -> float:
    """Return the seconds until something holds."""
    began = time.monotonic()
    while not holds():
        time.sleep(0.05)
    return time.monotonic() - began


def answers(url: str) -> bool:
    """Return whether a server is ready."""
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.HTTPError:
        return False


def load(url: str) -> str:
    """Return requests and tokens a second of 8 clients with prompts of their own."""
    end = time.monotonic() + SECONDS

    def ask(i: int) -> list[float]:
        times = []
        with httpx.Client(timeout=60) as client:
            while (began := time.monotonic()) < end:
                body = {"prompt": f"Client {i} asks", "max_tokens": N_TOKENS, "ignore_eos": True}
                client.post(f"{url}/v1/completions", json=body).raise_for_status()
                times.append(time.monotonic() - began)
        return times

    with ThreadPoolExecutor(CLIENTS) as pool:
        times = sorted(t for of_one in pool.map(ask, range(CLIENTS)) for t in of_one)
    rate = len(times) / SECONDS
    return f"{rate:.1f} requests/s, median {1e3 * times[len(times) // 2]:.0f} ms"


def replicas() -> list[psutil.Process]:
    """Return the processes of our replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ServeReplica:starchat" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has just ended
            pass
    return found


def running() -> int:
    """Return how many replicas Ray gives requests to."""
    states: Any = serve.status().applications[scaled.NAME].deployments[scaled.NAME].replica_states
    return int(states.get("RUNNING", 0))


def main() -> None:
    """Print one line for each figure."""
    n_cores = os.cpu_count() or 1
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "starchat", "serve", "--port", str(port), "--log-json"]
    alone = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait(lambda: answers(url))
    print(f"without Ray, {n_cores} threads: {load(url)}")
    alone.send_signal(signal.SIGTERM)
    alone.wait()

    began = time.monotonic()
    scaled.connect()
    print(f"Ray is up after {time.monotonic() - began:.1f} s")
    url = f"http://127.0.0.1:{port}"
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    for n_replicas, n_threads in ((1, n_cores), (2, max(1, n_cores // 2))):
        settings = ServerSettings(threads=n_threads, ray=True)
        deployment = scaled.deployment(
            settings,
            ray_actor_options={"num_cpus": n_cores / 4},
            max_replicas_per_node=2,
            autoscaling_config=None,
            num_replicas=n_replicas,
        )
        began = time.monotonic()
        serve.run(deployment.bind(scaled._on_replica(settings)), name=scaled.NAME)
        wait(lambda wanted=n_replicas: running() == wanted and answers(url))  # type: ignore[misc]
        print(f"{n_replicas} replicas ready after {time.monotonic() - began:.1f} s")
        print(f"{n_replicas} replicas of {n_threads} threads: {load(url)}")
    sizes = [each.memory_info().rss / 1e6 for each in replicas()]
    print(f"a replica's RSS: {max(sizes):.0f} MB")
    processes = psutil.Process().children(recursive=True)
    print(f"all of Ray: {sum(each.memory_info().rss for each in processes) / 1e9:.2f} GB")
    victim = replicas()[0]
    began = time.monotonic()
    victim.kill()
    wait(lambda: victim.pid not in {each.pid for each in replicas()} and running() == 2)
    wait(lambda: len(replicas()) == 2 and running() == 2)
    print(f"a killed replica is back after {time.monotonic() - began:.1f} s")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
