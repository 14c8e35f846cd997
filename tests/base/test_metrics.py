from lightllm.base.metrics import METRICS, Metrics
from lightllm.base.shared_memory import SharedMemory


def test_readers_see_the_sum_over_writers():
    memory = Metrics.create(3)
    writers = [Metrics(SharedMemory(memory.fd), block) for block in range(3)]
    for block, writer in enumerate(writers):
        writer.add("request_count", block + 1)
        writer.set("queue_size", 10)
        writer.set("queue_size", block)
        writer.observe("request_first_token_duration", 0.02)
        writer.observe("request_first_token_duration", 1e6)
    assert writers[0].total("request_count") == 6
    assert writers[0].total("queue_size") == 3
    counts, total = writers[1].histogram("request_first_token_duration")
    buckets = METRICS["request_first_token_duration"].buckets
    assert len(counts) == len(buckets) + 1
    assert counts[-1] == 3
    assert counts[buckets.index(0.025)] == 3
    assert total == 3 * (0.02 + 1e6)


def test_no_metric_writes_into_another():
    metrics = Metrics(Metrics.create(1), 0)
    for name, metric in METRICS.items():
        if metric.kind == "histogram":
            metrics.observe(name, 1e9)
        else:
            metrics.set(name, 5.0)
    for name, metric in METRICS.items():
        if metric.kind == "histogram":
            counts, total = metrics.histogram(name)
            assert (counts.sum(), counts[-1], total) == (1, 1, 1e9)
        else:
            assert metrics.total(name) == 5.0


def test_a_process_that_begins_again_keeps_its_counters():
    metrics = Metrics(Metrics.create(2), 1)
    metrics.add("steps", 3)
    metrics.set("queue_size", 3)
    metrics.clear()
    assert metrics.total("steps") == 3
    assert metrics.total("queue_size") == 0
