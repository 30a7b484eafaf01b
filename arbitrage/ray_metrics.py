"""A meter of Ray's: what a run counts is exported beside Ray's own metrics, for Prometheus to read.

Besides `cluster` the only module that imports Ray, as its metrics are apart from actors and tasks.
The numbers go from this process to Ray's agent on the same node, every ten seconds, and that is
what Prometheus reads. The agent does so where `ray[default]` is installed; with plain Ray numbers
are taken all the same, and go nowhere. What cannot be recorded is left out, without a word.
"""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from arbitrage.errors import ConfigError
from arbitrage.metrics import BOUNDARIES_S

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.metrics import Metric

AGENT_NEEDS = (
    "aiohttp",
    "aiohttp_cors",
    "grpc",
    "opencensus",
    "opentelemetry",
    "prometheus_client",
)
"""Libraries of `ray[default]` without which Ray's agent exports nothing."""
REFUSED = (TypeError, ValueError, RuntimeError, OSError)
"""What Ray raises for a metric, tag or value that it does not take, or when it is gone."""


def require_port(port: int | None) -> None:
    """Raises ConfigError where nothing would be read at the port for Prometheus, or where it is
    taken: then Ray would not start, and not say why."""
    if port is None:
        return
    if missing := [name for name in AGENT_NEEDS if find_spec(name) is None]:
        raise ConfigError(
            f"`cluster.metrics_port` needs `ray[default]`, of which {', '.join(missing)} is not "
            "there; pip install 'arbitrage[metrics]', or leave the port out"
        )
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        raise ConfigError(
            f"`cluster.metrics_port`: {port} cannot be had ({error.strerror}); name another port, "
            "or none for a free one"
        ) from error


class RayMeter:
    """Makes each metric when it first has a value. To be used while Ray runs."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Adds to a counter, sets a gauge, or counts a value in a histogram."""
        if metric.name not in self._made:
            self._made[metric.name] = _made(metric)
        instrument = self._made[metric.name]
        if instrument is None:
            return
        try:
            instrument(value, tags=dict(labels))
        except REFUSED:
            self._made[metric.name] = None


def _made(metric: Metric) -> Any:
    """The method of Ray's own metric that takes a value; none where there is no such thing."""
    # Late: settings that Ray reads when it is imported are made by `cluster`.
    try:
        from ray.util import metrics

        if metric.kind == "counter":
            return metrics.Counter(metric.name, metric.help, metric.labels).inc
        if metric.kind == "gauge":
            return metrics.Gauge(metric.name, metric.help, metric.labels).set
        boundaries = list(BOUNDARIES_S)
        return metrics.Histogram(metric.name, metric.help, boundaries, metric.labels).observe
    except (ImportError, *REFUSED):
        return None
