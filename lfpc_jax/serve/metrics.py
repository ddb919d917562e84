"""The metrics that Prometheus reads; docs/metrics.md explains each."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lfpc_jax.serve.worker import Worker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    def __init__(self, worker: Worker, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lfpc_requests", "Chat requests by status", ["status", "mode"], registry=registry
        )
        self.prompt_tokens = Counter(
            "lfpc_prompt_tokens", "Tokens of prompts, crops included", registry=registry
        )
        self.completion_tokens = Counter(
            "lfpc_completion_tokens", "Tokens that were sampled", registry=registry
        )
        self.crops = Counter("lfpc_crops", "Crops that the server showed", registry=registry)
        self.first = Histogram(
            "lfpc_first_token_seconds",
            "From a request's last byte to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self.whole = Histogram(
            "lfpc_request_seconds",
            "From a request's last byte to its end",
            buckets=_SECONDS,
            registry=registry,
        )
        slots = Gauge("lfpc_slots", "Conversations that decode at once", registry=registry)
        slots.set(worker.engine.shapes.slots)
        gauges = {
            "lfpc_slots_taken": ("Slots that are taken", lambda: worker.running),
            "lfpc_requests_in_hand": (
                "Requests that decode or wait",
                lambda: len(worker.in_hand),
            ),
            "lfpc_programs_left": (
                "Programs for smaller shapes that are still to be compiled",
                lambda: worker.programs_left,
            ),
            "lfpc_engine_failures": ("How often the engine failed", lambda: worker.restarts),
        }
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=registry).set_function(value)
        Gauge("lfpc_version", "Always 1", ["version"], registry=registry).labels(version).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)
