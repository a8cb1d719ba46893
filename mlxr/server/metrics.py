"""Prometheus metrics: counts and times of requests, and gauges read from the engine when somebody asks."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ..memory import peak_bytes

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


_GAUGES = [
    *((GaugeMetricFamily, key, what) for key, what in (
        ("pages", "Pages of the pool."), ("pages_free", "Pages that can be taken, cached ones included."),
        ("pages_cached", "Free pages whose content may be found again."), ("pages_used", "Pages that running sequences hold."),
        ("running", "Sequences that run."), ("waiting", "Sequences that wait."), ("disk_pages", "Pages on disk."),
        ("disk_bytes", "Bytes of pages on disk."))),
    *((CounterMetricFamily, key, what) for key, what in (
        ("steps", "Steps of the engine."), ("tokens", "Tokens computed, of prompts and answers."),
        ("preemptions", "Sequences that gave up their pages and were computed again."),
        ("cache_evictions", "Cached pages that were given to others."), ("disk_written", "Pages written to disk."),
        ("disk_read", "Pages read from disk."), ("disk_damaged", "Pages on disk that could not be trusted, and were deleted."))),
]


class Metrics:
    """One registry for some Models."""

    def __init__(self, models):
        self.models, self.registry = models, CollectorRegistry()
        name = {"registry": self.registry, "namespace": "mlxr"}
        self.requests = Counter("requests", "Requests, by path and status.", ["path", "status"], **name)
        self.prompt = Counter("prompt_tokens", "Tokens of prompts of requests that began to be answered.", **name)
        self.cached = Counter("cached_tokens", "Prompt tokens that the prefix cache had.", **name)
        self.generated = Counter("generated_tokens", "Tokens generated.", **name)
        self.finished = Counter("sequences", "Sequences that ended, by reason.", ["reason"], **name)
        self.first = Histogram("time_to_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, **name)
        self.gap = Histogram("time_between_tokens_seconds", "Between two tokens of a sequence.",
                             buckets=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12), **name)
        self.registry.register(self)
        models.observers.append(self._chunk)

    def text(self):
        return generate_latest(self.registry)

    def collect(self):
        """Gauges of this moment; prometheus_client calls this."""
        found = [(name, s.engine.stats(), s) for name, s in self.models.loaded.items() if s.engine]
        for kind, key, what in _GAUGES:
            family = kind(f"mlxr_{key}", what, labels=["model"])
            for name, stats, _ in found:
                if key in stats:
                    family.add_metric([name], stats[key])
            yield family
        family = GaugeMetricFamily("mlxr_open_sequences", "Sequences taken and not ended.", labels=["model"])
        for name, _, service in found:
            family.add_metric([name], service.open)
        yield family
        yield GaugeMetricFamily("mlxr_peak_bytes", "Peak memory of the process.", value=peak_bytes())
        yield CounterMetricFamily("mlxr_loads", "Models loaded.", value=self.models.loads)

    def _chunk(self, job, i, chunk, now):
        if not hasattr(job, "seen"):
            job.seen = {}
        request = job.requests[i] if job.requests else None
        if i not in job.seen and request:
            self.first.observe(now - job.began)
            self.prompt.inc(request.sequence.num_prompt)
            self.cached.inc(request.sequence.cached or 0)
        elif chunk.token_ids:
            self.gap.observe(now - job.seen.get(i, now))
        job.seen[i] = now
        self.generated.inc(len(chunk.token_ids))
        if chunk.finish_reason:
            self.finished.labels(chunk.finish_reason).inc()
