"""Figures for Prometheus: what was asked, how long it took, and the engine's own counters.

Names are vLLM's with `starchat_` before them, so that its dashboards need little change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..types import Usage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_PER_TOKEN = (0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
#: counter of the engine (StarChat.stats) → what it counts
_OF_ENGINE = {
    "steps": "Batches that were computed.",
    "columns": "Positions that were computed.",
    "guessed_tokens": "Tokens that prompt look-up proposed.",
    "accepted_tokens": "Tokens that prompt look-up proposed rightly.",
    "forced_tokens": "Tokens for which a constraint left no choice.",
    "slow_turns": "Steps of constraints that went on beside the batches.",
    "abandoned": "Replies whose constraint did not come back.",
}


class Metrics:
    """The figures of one application, in a registry of its own."""

    def __init__(self, gauges: Callable[[], Mapping[str, tuple[str, float]]]) -> None:
        """Begin at zero.

        gauges: name → meaning and value of what is so at this moment.
        """
        self.registry = registry = CollectorRegistry()
        self.stats: Callable[[], Mapping[str, int]] | None = None  # the engine's, once it is there

        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"starchat_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"starchat_{name}", meaning, buckets=buckets, registry=registry)

        self.http = counter("http_requests", "Answers.", "method", "status")
        self.rejected = counter("rejected", "Requests without a place or memory.", "reason")
        self.cancelled = counter("cancelled", "Requests whose clients went.")
        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self._generation_tokens = counter("generation_tokens", "Tokens of replies.")
        self._looked_up = counter(
            "prefix_cache_queries", "Tokens of prompts, looked up in the cache."
        )
        self._cached = counter("prefix_cache_hits", "Tokens of prompts that were computed before.")
        self._success = counter("request_success", "Replies that ended.", "finished_reason")
        first = "Seconds from a request to the first piece of its reply."
        self._first = histogram("time_to_first_token_seconds", first, _SECONDS)
        self._per_token = histogram(
            "time_per_output_token_seconds", "Seconds between two tokens of a reply.", _PER_TOKEN
        )
        self._whole = histogram(
            "e2e_request_latency_seconds", "Seconds from a request to the end.", _SECONDS
        )
        self._queue = histogram(
            "request_queue_time_seconds", "Seconds until a prompt was begun.", _SECONDS
        )
        self._prefill = histogram(
            "request_prefill_time_seconds", "Seconds that the engine took for a prompt.", _SECONDS
        )
        self._decode = histogram(
            "request_decode_time_seconds", "Seconds that the engine took for a reply.", _SECONDS
        )
        self._n_prompt = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._n_reply = histogram("request_generation_tokens", "Tokens of a reply.", _TOKENS)
        self.compiling = histogram(
            "grammar_compile_seconds",
            "Seconds until the engine had a constrained request.",
            _SECONDS,
        )
        registry.register(_Now(self, gauges))

    def ended(self, reason: str, usage: Usage) -> None:
        """Count a reply that ended."""
        self._success.labels(reason).inc()
        self._generation_tokens.inc(usage.completion_tokens)
        self._n_reply.observe(usage.completion_tokens)
        self._decode.observe(usage.decode_seconds)

    def answered(
        self, usage: Usage, queue_s: float, first_s: float, whole_s: float, n_gaps: int
    ) -> None:
        """Count a request of which all replies ended; `usage` is that of its first reply."""
        self._prompt_tokens.inc(usage.prompt_tokens)
        self._looked_up.inc(usage.prompt_tokens)
        self._cached.inc(usage.cached_tokens)
        self._n_prompt.observe(usage.prompt_tokens)
        self._queue.observe(queue_s + usage.queue_seconds)
        self._prefill.observe(usage.prompt_seconds)
        self._first.observe(first_s)
        self._whole.observe(whole_s)
        if n_gaps > 0:
            self._per_token.observe((whole_s - first_s) / n_gaps)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class _Now(Collector):
    """What is read when somebody asks, rather than counted."""

    def __init__(self, metrics: Metrics, gauges: Callable[[], Mapping[str, Any]]) -> None:
        self._metrics = metrics
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        for name, (meaning, value) in self._gauges().items():
            yield GaugeMetricFamily(f"starchat_{name}", meaning, value=value)
        stats = self._metrics.stats() if self._metrics.stats else {}
        for name, meaning in _OF_ENGINE.items():
            value = stats.get(name, 0)
            yield CounterMetricFamily(f"starchat_engine_{name}", meaning, value=value)
