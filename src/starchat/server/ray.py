"""Scale-out on Ray Serve: one replica is one engine with its cores. docs/scaling.md has the rest.

serve run starchat.server.ray:app model=FILE max_replicas=10
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve import metrics
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from starlette.middleware import Middleware

from .. import _core
from ..errors import StarChatError
from ..model_source import opened
from .affinity import AtProxy, preferred
from .app import FACES, create_app
from .face import Faces
from .log import logging_to_stderr
from .run import keep_from_collections
from .service import Service
from .settings import ServerSettings

NAME = "starchat"  # of the application and of its deployment
SLACK = 8  # requests that the preferred replica may have more than the next one
_ONGOING = 8  # requests of a replica at which another one is wanted: the engine's throughput at 8
_BEYOND = 8  # requests that a replica gets beyond its places, so that its own 503 is what they see
_QUEUED = 200  # requests in a proxy, for which no replica has room
_HEALTH_S = 5.0
_TOKEN_S = 20.0  # that a replica has for one token
_DRAIN_S = 300.0  # unless --drain-timeout says otherwise: longer than the longest usual answer
_DOWNSCALE_S = 600.0  # loading gigabytes again is slow
#: Must be in the environment of every machine before `ray start` (docs/scaling.md).
PROXY_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
PROXY_CALLBACK = f"{__name__}:proxy_middlewares"


def app(args: dict[str, Any]) -> Any:
    """Return the application for `serve run` or a config file; args are fields of ServerSettings.

    Keys come from STARCHAT_API_KEY or api_key_file, as for the command.
    """
    settings = ServerSettings.of_texts({**args, "ray": True})
    file = settings.api_key_file
    settings = settings.with_keys(Path(file).read_text("utf-8") if file else None)
    return deployment(settings).bind(_on_replica(settings))


def deployment(settings: ServerSettings, **changes: Any) -> Any:
    """Return how replicas run; changes are options of ray.serve.deployment."""
    settings = settings.check()
    options: dict[str, Any] = {
        "name": NAME,
        "ray_actor_options": {"num_cpus": settings.threads or _cores(), **_memory(settings)},
        # A second replica on a machine has the weights again, and half of the cores and the cache.
        "max_replicas_per_node": 1,
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": max(settings.min_replicas, settings.max_replicas),
            "target_ongoing_requests": _ONGOING,
            "downscale_delay_s": _DOWNSCALE_S,
        },
        "max_ongoing_requests": settings.max_running + settings.max_queue + _BEYOND,
        "max_queued_requests": _QUEUED,
        "backpressure_config": {"status_code": 503, "retry_after_s": 2},
        "health_check_period_s": _HEALTH_S,
        "health_check_timeout_s": _TOKEN_S + 10,
        "graceful_shutdown_timeout_s": _drain_s(settings),
        "request_router_config": {
            "request_router_class": f"{__name__}:PrefixAffinityRouter",
            "request_router_kwargs": {"slack": SLACK},
        },
    }
    return serve.deployment(**{**options, **changes})(Replica)


def _on_replica(settings: ServerSettings) -> ServerSettings:
    """Return the settings of a replica; /metrics would show one of all, so figures go by Ray."""
    return replace(settings, threads=settings.threads or _cores(), metrics=False)


def _cores() -> int:
    """Return the cores of the smallest machine that has any."""
    of_machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return min([n for n in of_machines if n], default=os.cpu_count() or 1)


def _memory(settings: ServerSettings) -> dict[str, int]:
    """Return the bytes of weights and one context, where the file is on this machine as well."""
    path = settings.model
    if path is None or not os.path.exists(path):
        return {}
    with ExitStack() as files:
        checkpoint = opened(path, files)
        content = _core.inspect(path, compare=False, n_ctx=settings.ctx or 0, checkpoint=checkpoint)
    return {"memory": int(content["memory"]["total"]) + (settings.kv_budget or 0)}


def _drain_s(settings: ServerSettings) -> float:
    is_default = settings.drain_timeout == ServerSettings().drain_timeout
    return _DRAIN_S if is_default else settings.drain_timeout


@serve.ingress()
class Replica:
    """One engine behind one application; both are made on the machine that runs them."""

    async def __init__(self, settings: ServerSettings) -> None:  # type: ignore[misc]  # Ray awaits it
        """Load the model: Ray sends no request before that."""
        self._logging = logging_to_stderr(as_json=settings.log_json)
        self._logging.__enter__()  # until the process ends
        self._app = create_app(settings)
        self._service: Service = self._app.state.service
        await self._service.load()
        if self._service.failure is not None:
            raise self._service.failure
        keep_from_collections()
        self._figures = _Figures(self._service)
        self._n_steps = -1

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray runs its lifespan."""
        return self._app

    async def check_health(self) -> None:
        """Raise where the engine neither computes one token in time nor anything else."""
        self._figures.export()
        n_steps, self._n_steps = self._n_steps, self._service.stats()["steps"]
        try:
            await asyncio.wait_for(self._service.probe(), _TOKEN_S)
        except asyncio.TimeoutError:
            if self._service.stats()["steps"] == max(n_steps, self._n_steps):
                raise


class PrefixAffinityRouter(RequestRouter):  # type: ignore[misc]
    """Asks the replica that a request's key prefers; without a key, the less loaded of two."""

    def initialize_state(self, slack: int = SLACK) -> None:
        """Take the options of the deployment."""
        self._slack = slack

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return which replicas to ask, in this order; of several at once, Ray takes the idlest."""
        key = ""
        if pending_request is not None:
            key = pending_request.metadata.session_id
            pending_request.routing_context.should_backoff = True
        n_two = min(2, len(candidate_replicas))
        any_two = random.sample(candidate_replicas, n_two)
        if not key or n_two < 2:
            return [any_two]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        known = self.replica_queue_len_cache
        loads = {name: known.get(each.replica_id) or 0 for name, each in replicas.items()}
        return [[replicas[name]] for name in preferred(key, loads, self._slack)] + [any_two]


def proxy_middlewares() -> list[Middleware]:
    """Return what Ray's proxies run before they choose a replica (PROXY_VARIABLE names it)."""
    made = (make(ServerSettings()) for make in FACES)
    return [Middleware(AtProxy, faces=Faces([face for face in made if face is not None]))]


class _Figures:
    """Hands the figures of a replica to Ray, whose agents on each machine Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self._registry = service.metrics.registry
        self._exported: dict[str, Any] = {}
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def export(self) -> None:
        """Tell Ray what has changed. Buckets of histograms are counters with the label `le`."""
        for family in self._registry.collect():
            for name, labels, value, *_ in family.samples:
                if name.endswith("_created"):
                    continue
                is_gauge = family.type == "gauge"
                name = name.removesuffix("_total")  # Ray adds it again
                if name not in self._exported:
                    kind = metrics.Gauge if is_gauge else metrics.Counter
                    self._exported[name] = kind(name, family.documentation, tuple(labels))
                before = self._values.get(place := (name, tuple(labels.items())), 0.0)
                self._values[place] = value
                if is_gauge:
                    self._exported[name].set(value, tags=labels)
                elif value > before:
                    self._exported[name].inc(value - before, tags=labels)


# ---- starchat serve --ray ---------------------------------------------------------------------


def run(settings: ServerSettings, on_ready: Callable[[str], object]) -> int:
    """Serve on the cluster of RAY_ADDRESS, or on one of this machine alone; return the signal.

    The first signal drains, as Ray does it; the second ends the process.
    """
    is_own = connect()
    try:
        http: dict[str, Any] = {"host": settings.host, "port": settings.port}
        if settings.ssl_certfile:
            http |= {"ssl_keyfile": settings.ssl_keyfile, "ssl_certfile": settings.ssl_certfile}
        serve.start(proxy_location="EveryNode", http_options=http)
        with _Signals() as signals:
            serve.run(deployment(settings).bind(_on_replica(settings)), name=NAME)
            scheme = "https" if settings.ssl_certfile else "http"
            on_ready(f"{scheme}://{settings.host}:{settings.port}")
            number = signals.wait()
            serve.delete(NAME)
            return number
    except RuntimeError as error:  # Ray's, where no replica can be made
        raise StarChatError(f"Ray: {error}") from None
    finally:
        if is_own:
            serve.shutdown()
        ray.shutdown()


def connect() -> bool:
    """Connect to Ray; return whether a cluster was started here.

    Ray turns token authentication on by itself for a new cluster, and where it finds a token.
    RAY_AUTH_MODE would come too late here: Ray reads it when it is imported, and set later it only
    keeps Ray from doing so.
    """
    os.environ.setdefault(PROXY_VARIABLE, PROXY_CALLBACK)
    with suppress(ConnectionError):
        ray.init(address="auto", log_to_driver=False)
        return False
    ray.init(include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    return True


class _Signals:
    """Waits for SIGTERM or Ctrl-C; the second one does what it did before."""

    def __enter__(self) -> _Signals:
        self._came = threading.Event()
        self._number = 0
        both = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._take) for number in both}
        return self

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        self._came.set()
        self.__exit__()

    def wait(self) -> int:
        self._came.wait()
        return self._number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
