"""Metrics for Prometheus, and a log with one line of JSON per request. Neither has anything of a photo's content."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Numbers:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, waiting: Callable[[], float], ready: Callable[[], bool]) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "showtell_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "showtell_request_seconds", "From headers to answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("showtell_images", "Images by what became of them.", ["result"], registry=registry)
        self.batches = Histogram("showtell_batch_images", "Images a batch.", buckets=_SIZES, registry=registry)
        self.batch_seconds = Histogram(
            "showtell_batch_seconds", "How long the model took for a batch.", buckets=_SECONDS, registry=registry
        )
        Gauge(
            "showtell_queue_images", "Images accepted and not answered, wide searches as several.", registry=registry
        ).set_function(waiting)
        Gauge("showtell_ready", "1 while requests are taken.", registry=registry).set_function(lambda: float(ready()))

    def observe_batch(self, images: int, seconds: float) -> None:
        """Counts one captioned batch."""
        self.batches.observe(images)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


LOG = logging.getLogger("showtell.serve")


def log(event: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Writes one line of the log."""
    LOG.log(level, event, extra={"fields": fields}, exc_info=error)


def log_to_stderr() -> None:
    """Sends our lines and uvicorn's warnings to stderr, as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name, level in (("showtell.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
