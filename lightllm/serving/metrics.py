"""The metrics of all processes in the text format of Prometheus."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from lightllm.base.metrics import METRICS, Metric, Metrics

CONTENT_TYPE = CONTENT_TYPE_LATEST


def render(metrics: Metrics, *, api_processes: int) -> bytes:
    """Everything declared in base/metrics, summed over processes but for what each api process has of its own."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, api_processes))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, metrics: Metrics, api_processes: int):
        self._metrics, self._api_processes = metrics, api_processes

    def collect(self) -> Iterator[Family]:
        for metric in METRICS.values():
            if metric.is_per_api:
                yield self._family_per_api(metric)
            else:
                yield _family(metric, self._metrics)

    def _family_per_api(self, metric: Metric) -> Family:
        family = GaugeMetricFamily(f"lightllm_{metric.name}", metric.help, labels=["api"])
        for number, value in enumerate(self._metrics.of_api_processes(metric.name, self._api_processes)):
            family.add_metric([str(number)], value)
        return family


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
