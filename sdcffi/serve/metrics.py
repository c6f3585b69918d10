"""What is counted and timed, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 25, 100)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()  # its own: a process may have several servers
        self.requests = Counter("sdcffi_requests", "HTTP requests", ["method", "route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "sdcffi_request_seconds", "Seconds of HTTP requests", ["route"], buckets=_QUICK, registry=registry
        )
        self.jobs = Counter("sdcffi_jobs", "Jobs that have ended", ["kind", "model", "state"], registry=registry)
        self.rejected = Counter("sdcffi_rejected", "Requests that were not taken", ["type"], registry=registry)
        self.job_seconds = Histogram(
            "sdcffi_job_seconds",
            "Seconds of jobs that finished",
            ["kind", "model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.wait_seconds = Histogram(
            "sdcffi_wait_seconds", "Seconds that jobs waited", buckets=_SECONDS, registry=registry
        )
        self.images = Counter("sdcffi_images", "Images that were generated or upscaled", ["model"], registry=registry)
        self.crashes = Counter("sdcffi_crashes", "Crashes of engines", ["model"], registry=registry)
        self.waiting = Gauge("sdcffi_waiting", "Jobs that wait", registry=registry)
        self.running = Gauge("sdcffi_running", "Jobs that run", registry=registry)
        self.loaded = Gauge("sdcffi_model_loaded", "Whether a model is loaded", ["model"], registry=registry)
        self.store_bytes = Gauge("sdcffi_store_bytes", "Size of the results that are kept", registry=registry)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)
