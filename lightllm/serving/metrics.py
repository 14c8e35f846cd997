"""The metrics of all processes in the text format of Prometheus."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from lightllm.base.metrics import METRICS, Metric, Metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render(metrics: Metrics) -> bytes:
    """Everything declared in base/metrics, summed over processes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, metrics: Metrics):
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        for metric in METRICS.values():
            yield _family(metric, self._metrics)


def _family(metric: Metric, metrics: Metrics) -> Family:
    name = f"lightllm_{metric.name}"
    if metric.kind == "counter":
        return CounterMetricFamily(name, metric.help, value=metrics.total(metric.name))
    if metric.kind == "gauge":
        return GaugeMetricFamily(name, metric.help, value=metrics.total(metric.name))
    counts, total = metrics.histogram(metric.name)
    bounds = [*(str(bound) for bound in metric.buckets), "+Inf"]
    buckets = list(zip(bounds, counts.cumsum().tolist(), strict=True))
    return HistogramMetricFamily(name, metric.help, buckets=buckets, sum_value=total)
