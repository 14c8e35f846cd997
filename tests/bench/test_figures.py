import pytest

from lightllm.bench import figures
from lightllm.bench.outcome import Outcome

FIRST = Outcome(0, 0, 10, 3, start=100.0, times=[100.5, 100.7, 101.1], prompt_tokens=10, output_tokens=3)
SECOND = Outcome(1, 0, 9, 5, start=100.2, times=[101.0, 102.2], prompt_tokens=10, output_tokens=4, cached_tokens=8)
FAILED = Outcome(2, 0, 10, 3, start=100.0, error="429: full")
ONE_TOKEN = Outcome(3, 0, 10, 1, start=101.9, times=[102.0], prompt_tokens=10, output_tokens=1)
ALL = [FIRST, SECOND, FAILED, ONE_TOKEN]


def test_latencies_are_those_of_requests_that_succeeded():
    found = figures.latencies(ALL)
    assert found["ttft"] == pytest.approx([500, 800, 100])
    assert found["tpot"] == pytest.approx([300, 400])  # by tokens, not by events; none for a single token
    assert found["itl"] == pytest.approx([200, 400, 1200])
    assert found["e2el"] == pytest.approx([1100, 2000, 100])


def test_a_summary_has_mean_median_and_percentiles_under_their_usual_names():
    found = figures.summary(figures.latencies(ALL), ["ttft"], [99, 99.9])
    assert list(found) == ["mean_ttft_ms", "median_ttft_ms", "std_ttft_ms", "p99_ttft_ms", "p99.9_ttft_ms"]
    assert found["mean_ttft_ms"] == pytest.approx(1400 / 3)
    assert found["median_ttft_ms"] == pytest.approx(500)
    assert figures.summary(figures.latencies([]), ["tpot"], [50]) == {}


def test_totals_are_over_the_time_from_first_request_to_last_token():
    found = figures.totals(ALL, {"ttft": 600, "tpot": 350})
    assert found["duration"] == pytest.approx(2.2)
    assert (found["completed"], found["failed"]) == (3, 1)
    assert (found["total_input_tokens"], found["total_cached_tokens"], found["total_output_tokens"]) == (30, 8, 8)
    assert found["output_throughput"] == pytest.approx(8 / 2.2)
    assert found["request_goodput"] == pytest.approx(2 / 2.2)
    assert found["max_concurrent_requests"] == 2
    assert found["tokens_per_event"] == pytest.approx(8 / 6)
    assert (found["wrong_input_lens"], found["wrong_output_lens"]) == (1, 1)
    assert found["most_common_errors"] == {"429: full": 1}
    assert figures.totals([FAILED], {})["completed"] == 0


def test_the_peak_rate_counts_tokens_and_not_events():
    # Seconds 0 to 2: 2 tokens of the first (2 events); 1 + 2 of the first and the second; 2 of the second and 1.
    assert figures.tokens_by_second([FIRST, SECOND, ONE_TOKEN]).tolist() == pytest.approx([2, 3, 3])
    assert figures.peak_rate([FIRST, SECOND, ONE_TOKEN]) == pytest.approx(3)


def test_requests_that_follow_one_another_are_not_concurrent():
    later = Outcome(4, 0, 1, 1, start=101.1, times=[101.2], output_tokens=1)
    assert figures.peak_concurrency([FIRST, later]) == 1
