from prometheus_client.parser import text_string_to_metric_families

from lightllm.base.metrics import METRICS, Metrics
from lightllm.serving.metrics import CONTENT_TYPE, render


def test_every_metric_is_rendered_as_the_sum_over_processes():
    memory = Metrics.create(3)
    writers = [Metrics(memory, block) for block in range(3)]
    for writer in writers:
        writer.add("request_count", 2)
        writer.set("queue_size", 5)
        writer.observe("request_input_length", 3)
        writer.observe("request_input_length", 10**9)
    families = {
        family.name: family for family in text_string_to_metric_families(render(writers[0], api_processes=2).decode())
    }
    assert set(families) == {f"lightllm_{name}" for name in METRICS}
    (count,) = families["lightllm_request_count"].samples
    (queue,) = families["lightllm_queue_size"].samples
    assert (count.name, count.value, queue.value) == ("lightllm_request_count_total", 6, 15)
    lengths = families["lightllm_request_input_length"].samples
    values = {(sample.name.rpartition("_")[2], sample.labels.get("le")): sample.value for sample in lengths}
    assert (values["bucket", "1.0"], values["bucket", "4.0"], values["bucket", "+Inf"]) == (0, 3, 6)
    assert (values["count", None], values["sum", None]) == (6, 3 * (3 + 10**9))


def test_each_api_process_shows_how_late_its_event_loop_is():
    memory = Metrics.create(4)
    for block, lag in [(2, 0.25), (3, 0.5)]:
        Metrics(memory, block).set("event_loop_lag", lag)
    families = text_string_to_metric_families(render(Metrics(memory, 0), api_processes=2).decode())
    (lag,) = [family for family in families if family.name == "lightllm_event_loop_lag"]
    assert [(sample.labels, sample.value) for sample in lag.samples] == [({"api": "0"}, 0.25), ({"api": "1"}, 0.5)]


def test_the_content_type_is_that_of_prometheus():
    assert CONTENT_TYPE.startswith("text/plain; version=")
