import numpy as np
import pytest

from lightllm.base import config
from lightllm.base.errors import Closed, RequestError
from lightllm.base.messages import Requests, TextReady, references
from lightllm.base.metrics import Metrics
from lightllm.base.request import FinishReason, SamplingParams, Terms
from lightllm.base.request_table import RequestTable
from lightllm.base.status import State, Status
from lightllm.serving.client import EngineClient
from lightllm.serving.records import Request
from tests.serving.text.table_for_tests import Writers

RECORDS, EOS, VOCABULARY = 4, [2, 3], 100


class Wire:
    """A channel whose other end the test holds."""

    def __init__(self) -> None:
        self.sent: list[Requests] = []
        self.to_receive: list[TextReady] = []
        self.is_closed = False

    def send(self, message: Requests) -> None:
        if self.is_closed:
            raise Closed
        self.sent.append(message)

    def receive(self) -> TextReady | None:
        if self.to_receive:
            return self.to_receive.pop(0)
        if self.is_closed:
            raise Closed
        return None


class Bench:
    """A client on a table of its own; `answer` writes what scheduler and detokenizer would."""

    def __init__(self, *, clients: int = 1, **flags) -> None:
        self.writers = Writers(RECORDS, clients=clients)
        self.table: RequestTable = self.writers.table
        self.status = Status(Status.create())
        self.status.state, self.status.record["pool_tokens"] = State.SERVING, 1000
        self.status.record["max_request_tokens"] = 500
        self.metrics = Metrics(Metrics.create(1), 0)
        self.scheduler, self.detokenizer = Wire(), Wire()
        self.client = self.new_client(**flags)

    def new_client(self, **flags) -> EngineClient:
        return EngineClient(
            self.table,
            0,
            scheduler=self.scheduler,
            detokenizer=self.detokenizer,
            status=self.status,
            metrics=self.metrics,
            config=config.parse(config.EngineConfig, flags),
            eos_ids=EOS,
            vocab_size=VOCABULARY,
        )

    def submit(self, prompt=(5, 6, 7), on_news=None, **params) -> list[Request]:
        return self.client.submit(prompt, SamplingParams(**params), on_news)

    def answer(self, request: Request, text: bytes, tokens: list[int], finish=FinishReason.NONE, stop_index=-1) -> None:
        """Appends to a request's output and tells the client."""
        record, pages = self.table.records[request.index], self.table.pages
        if record["text_generation"] != request.generation:
            record["num_output"], record["output_page"], record["output_generation"] = 0, -1, request.generation
            record["text_page"], record["text_bytes"] = self.writers._output_pages.take(1)[0], 0
            record["text_finish"], record["num_visible"] = 0, 0
            record["text_generation"] = request.generation
        self.writers.emit(request.index, tokens, finish)
        start = int(record["text_page"]) * 4096 + int(record["text_bytes"])
        pages.flat.view(np.uint8)[start : start + len(text)] = np.frombuffer(text, dtype=np.uint8)
        record["text_bytes"] += len(text)
        record["num_visible"] = record["num_output"]
        record["stop_index"], record["cached_tokens"], record["text_finish"] = stop_index, 2, finish
        reference = references(np.array([request.index]), np.array([request.generation]))
        self.detokenizer.to_receive.append(TextReady(reference))


@pytest.fixture
def bench():
    return Bench()


def test_a_request_is_written_and_its_reference_sent(bench):
    (request,) = bench.submit(max_tokens=9, temperature=0.5, top_k=-1, seed=3, stop=["x"], stop_token_ids=[8])
    record = bench.table.records[request.index]
    assert bench.scheduler.sent == [Requests(submit=[(request.index, int(record["generation"]))])]
    assert bench.table.prompt(request.index).tolist() == [5, 6, 7]
    options = bench.table.options(request.index)
    assert (options.stop, options.stop_token_ids) == (["x"], [*EOS, 8])
    assert (record["max_tokens"], record["max_tokens_given"], record["top_k"], record["num_logprobs"]) == (
        9,
        True,
        0,
        -1,
    )
    assert (record["temperature"], record["seed"]) == (0.5, 3)


def test_samples_share_the_prompt_and_have_seeds_in_a_row(bench):
    requests = bench.submit(n=3, seed=2**63)
    records = [bench.table.records[request.index] for request in requests]
    assert len({int(record["prompt_page"]) for record in records}) == 1
    assert [int(record["seed"]) for record in records] == [2**63, 2**63 + 1, 2**63 + 2]
    assert [request.sample for request in requests] == [0, 1, 2]


def test_seeds_differ_unless_given(bench):
    (first,), (second,) = bench.submit(), bench.submit()
    assert bench.table.records[first.index]["seed"] != bench.table.records[second.index]["seed"]


def test_eos_is_no_stop_token_where_it_is_ignored(bench):
    (request,) = bench.submit(ignore_eos=True)
    assert bench.table.options(request.index).stop_token_ids == []


def test_what_is_new_is_read_once_and_news_is_told(bench):
    told = []
    (request,) = bench.submit(on_news=told.append)
    assert bench.client.poll() == []
    bench.answer(request, b"one", [11])
    assert bench.client.poll() == told == [request]
    update = bench.client.read(request)
    assert (update.text, update.tokens.ids.tolist(), update.num_tokens) == ("one", [11], 1)
    assert (update.finish_reason, update.cached_tokens) == (None, 2)
    assert bench.client.read(request).text == ""
    bench.answer(request, b" two", [12, 2], FinishReason.STOP, stop_index=0)
    bench.client.poll()
    update = bench.client.read(request)
    assert (update.text, update.tokens.ids.tolist(), update.num_tokens) == (" two", [12, 2], 3)
    assert update.finish_reason is FinishReason.STOP
    assert update.stop_reason(request) is None, "an eos token is no stop of the client's"


def test_several_answers_that_wait_are_read_as_one(bench):
    (request,) = bench.submit()
    for i in range(5):
        bench.answer(request, b"x", [i])
    assert bench.client.poll() == [request] * 5
    assert bench.client.read(request).text == "xxxxx"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_is_never_split(bench, cut):
    (request,) = bench.submit()
    data = "a😀b".encode()
    bench.answer(request, data[: 1 + cut], [1])
    first = bench.client.read(request).text
    bench.answer(request, data[1 + cut :], [2], FinishReason.LENGTH)
    assert first in ("a", "a😀")
    assert first + bench.client.read(request).text == "a😀b"


def test_logprobs_come_with_their_tokens(bench):
    (request,) = bench.submit(logprobs=2)
    record = bench.table.records[request.index]
    bench.answer(request, b"x", [11, 12])
    page = int(record["output_page"])
    rows = bench.table.pages.words[page, :12].reshape(2, 6)
    rows[:, 1] = np.array([-0.25, -0.5], dtype=np.float32).view(np.int32)
    rows[:, 2:4] = [[11, 13], [14, 12]]
    rows[:, 4:6] = np.array([[-0.25, -2], [-0.1, -0.5]], dtype=np.float32).view(np.int32)
    tokens = bench.client.read(request).tokens
    assert tokens.ids.tolist() == [11, 12]
    assert tokens.logprobs.tolist() == [-0.25, -0.5]
    assert tokens.top_ids.tolist() == [[11, 13], [14, 12]]
    assert tokens.top_logprobs[0].tolist() == [-0.25, -2.0]


@pytest.mark.parametrize(("stop_index", "reason"), [(0, "x"), (1, "y"), (2, None), (4, 8), (-1, None)])
def test_the_stop_that_ended_a_request_is_named(bench, stop_index, reason):
    (request,) = bench.submit(stop=["x", "y"], stop_token_ids=[8])
    bench.answer(request, b"", [8], FinishReason.STOP, stop_index)
    assert bench.client.read(request).stop_reason(request) == reason


def test_a_released_record_and_its_pages_are_used_again(bench):
    for _ in range(20):
        requests = bench.submit(prompt=[1] * 400, n=RECORDS, max_tokens=5)
        generations = [request.generation for request in requests]
        for request in requests:
            bench.client.release(request)
            bench.client.release(request)
        assert bench.scheduler.sent[-1] == Requests(release=[(requests[-1].index, generations[-1])])
        assert all(bench.table.records[r.index]["generation"] > r.generation for r in requests)
    assert bench.client.open_requests == []


def test_late_news_of_a_released_request_is_dropped(bench):
    (old,) = bench.submit()
    bench.answer(old, b"old", [1])
    bench.client.release(old)
    requests = bench.submit(n=RECORDS)
    assert bench.client.poll() == []
    (new,) = [request for request in requests if request.index == old.index]
    assert bench.client.read(new).text == "", "the text is the old request's"
    assert bench.client.read(old).text == ""


def test_a_successor_begins_with_higher_generations(bench):
    before = bench.table.records["generation"].copy()
    bench.submit(n=RECORDS)
    successor = bench.new_client()
    assert (bench.table.records["generation"] > before).all()
    assert len(successor.submit([1], SamplingParams(n=RECORDS))) == RECORDS


REFUSED = {
    "empty": ((), {}, "empty"),
    "no vocabulary": ((5, VOCABULARY), {}, "token id 100.*0 to 99"),
    "negative": ((-1,), {}, "token id -1"),
    "huge": ((2**70,), {}, "token ids"),
    "nested": (((1, 2), (3, 4)), {}, "token ids"),
    "fractions": ((1.5,), {}, "token ids"),
    "too long": ([1] * 500, {}, "500 prompt tokens.*--max_req_total_len"),
    "too much": ([1] * 400, {"max_tokens": 101}, "501.*500.*--max_req_total_len"),
    "min above max": ((1,), {"max_tokens": 2, "min_tokens": 3}, "min_tokens=3"),
}


@pytest.mark.parametrize(("prompt", "params", "message"), REFUSED.values(), ids=REFUSED)
def test_what_can_never_run_is_refused(bench, prompt, params, message):
    with pytest.raises(RequestError, match=message) as caught:
        bench.submit(prompt, **params)
    assert caught.value.status == 400
    assert bench.scheduler.sent == []


def test_no_maximum_means_as_far_as_the_engine_allows(bench):
    (request,) = bench.submit([1] * 100)
    record = bench.table.records[request.index]
    assert (record["max_tokens"], record["max_tokens_given"]) == (400, False)


def test_a_small_pool_limits_length_too(bench):
    bench.status.record["pool_tokens"] = 50
    with pytest.raises(RequestError, match="--max_total_token_num"):
        bench.submit([1] * 20, max_tokens=40)
    (request,) = bench.submit([1] * 20)
    assert bench.table.records[request.index]["max_tokens"] == 31


@pytest.mark.parametrize("state", [State.STARTING, State.DRAINING, State.FAILED])
def test_nothing_is_taken_unless_the_engine_serves(bench, state):
    bench.status.state = state
    with pytest.raises(RequestError, match=state.name.lower()) as caught:
        bench.submit()
    assert caught.value.status == 503


def test_a_full_table_is_429(bench):
    bench.submit(n=RECORDS - 1)
    with pytest.raises(RequestError) as caught:
        bench.submit(n=2)
    assert caught.value.status == 429
    bench.submit()


def test_the_queue_counts_only_what_waits(bench):
    bench = Bench(max_queued_requests=1)
    (running,) = bench.submit()
    bench.table.records[running.index]["started"] = 1.0
    bench.table.records[running.index]["output_generation"] = running.generation
    bench.submit()
    with pytest.raises(RequestError, match="--max_queued_requests=1") as caught:
        bench.submit()
    assert caught.value.status == 429


def test_a_beam_search_has_one_place_in_the_queue(bench):
    bench = Bench(max_queued_requests=1)
    running, _ = bench.submit(n=2, num_beams=4)
    bench.table.records[running.index]["started"] = 1.0
    bench.table.records[running.index]["output_generation"] = running.generation
    bench.submit()
    with pytest.raises(RequestError, match="--max_queued_requests=1"):
        bench.submit()


def test_prompts_that_fill_the_pages_are_429_and_leave_nothing(bench):
    bench.status.record["max_request_tokens"] = bench.status.record["pool_tokens"] = 10**6
    pages = bench.client._records._pages
    free = pages.num_free
    with pytest.raises(RequestError) as caught:
        bench.submit([1] * (free * 1024), max_tokens=1)
    assert caught.value.status == 429
    assert pages.num_free == free


def test_a_lost_engine_ends_open_requests_with_its_reason(bench):
    told = []
    open_request, finished = *bench.submit(on_news=told.append), *bench.submit()
    bench.answer(finished, b"done", [1], FinishReason.LENGTH)
    bench.client.read(finished)
    bench.client.engine_lost("worker 0 died")
    assert told == [open_request]
    update = bench.client.read(open_request)
    assert (update.finish_reason, update.error) == (FinishReason.ERROR, "worker 0 died")
    with pytest.raises(RequestError) as caught:
        bench.submit()
    assert caught.value.status == 503
    sent = len(bench.scheduler.sent)
    bench.client.release(open_request)
    assert len(bench.scheduler.sent) == sent, "the new engine never heard of it"
    bench.client.reconnect("scheduler", bench.scheduler)
    bench.client.reconnect("detokenizer", bench.detokenizer)
    assert len(bench.submit(n=RECORDS - 1)) == RECORDS - 1


def test_a_closed_scheduler_is_503_and_leaves_nothing(bench):
    bench.scheduler.is_closed = True
    with pytest.raises(RequestError) as caught:
        bench.submit(n=2)
    assert caught.value.status == 503
    assert bench.client.open_requests == []
    assert bench.client._records.num_free == RECORDS


def test_a_closed_detokenizer_is_told_after_its_last_news(bench):
    (request,) = bench.submit()
    bench.answer(request, b"x", [1])
    bench.detokenizer.is_closed = True
    with pytest.raises(Closed):
        bench.client.poll()
    assert request.has_news


def test_ends_are_counted_by_kind(bench):
    success, failure, aborted = (bench.submit()[0] for _ in range(3))
    bench.answer(success, b"x", [1, 2, 3], FinishReason.LENGTH)
    bench.answer(failure, b"", [], FinishReason.ERROR)
    bench.client.poll()
    for request in (success, failure, aborted):
        if request is not aborted:
            assert bench.client.read(request).finish_reason
        bench.client.release(request)
    counts = {name: bench.metrics.total(f"request_{name}") for name in ("count", "success", "failure", "aborted")}
    assert counts == {"count": 3, "success": 1, "failure": 1, "aborted": 1}
    assert bench.metrics.histogram("request_generated_tokens")[1] == 3


def test_pages_are_shared_until_the_last_sample_is_released(bench):
    pages = bench.client._records._pages
    free = pages.num_free
    first, second = bench.submit(n=2)
    held = free - pages.num_free
    bench.client.release(first)
    assert free - pages.num_free == held
    bench.client.release(second)
    assert pages.num_free == free


def test_the_queue_of_the_whole_engine_counts(bench):
    bench = Bench(clients=2, max_queued_requests=3)
    bench.status.show_queue(3, 30, 4.5)
    with pytest.raises(RequestError, match="--max_queued_requests=3") as caught:
        bench.submit()
    assert (caught.value.status, caught.value.retry_after_s) == (429, 4.5)
    bench.status.show_queue(0, 0, 0.0)
    assert len(bench.submit(n=4)) == 4, "with nobody waiting it may run at once"


def test_prompt_tokens_that_wait_are_bounded(bench):
    bench = Bench(max_queued_tokens=10)
    (first,) = bench.submit()
    bench.submit(n=2)
    with pytest.raises(RequestError, match="--max_queued_tokens=10") as caught:
        bench.submit()
    assert caught.value.status == 429
    bench.client.release(first)
    bench.submit()


def test_where_it_would_wait_too_long_the_engine_is_not_asked(bench):
    bench = Bench()
    bench.status.show_queue(9, 90, 30.0)
    bench.submit()
    with pytest.raises(RequestError, match="timeout_s") as caught:
        bench.client.submit([5], SamplingParams(n=2), terms=Terms(timeout_s=20.0))
    assert (caught.value.status, caught.value.retry_after_s) == (429, 30.0)
    assert bench.metrics.total("refused_too_late") == 2
    assert len(bench.scheduler.sent) == 1
    urgent = Bench(schedule_policy="priority")
    urgent.status.show_queue(9, 90, 30.0)
    urgent.client.submit([5], SamplingParams(), terms=Terms(timeout_s=20.0, priority=-1))
