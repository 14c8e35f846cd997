"""Several api processes on one port."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

import httpx
import pytest
from openai import NotFoundError, OpenAI

from tests.end_to_end.serving import Server, eventually, kill


@pytest.fixture(scope="module")
def server():
    with Server("--httpserver_workers", "3") as server:
        yield server


def test_all_api_processes_serve_and_show_how_late_their_event_loops_are(server):
    def ask(number: int) -> str:
        body = {"prompt": f"What is {number} + 1?", "max_tokens": 4, "ignore_eos": True, "temperature": 0}
        request = Request(server.url + "/v1/completions", json.dumps(body).encode())
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)["usage"]["completion_tokens"]

    before = server.metric("request_count")
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(24))) == [4] * 24
    assert server.metric("request_count") == before + 24
    lags = re.findall(r'^lightllm_event_loop_lag\{api="(\d)"\} (\S+)$', server.get("/metrics"), re.MULTILINE)
    assert [api for api, _ in lags] == ["0", "1", "2"]
    assert eventually(lambda: server.metric("event_loop_lag_duration_count") > 4)
    assert len(server.children()["api"]) == 3


@pytest.fixture
def clients(server):
    """A client of each api process, with its pid: a connection is accepted by whoever is not halted."""
    pids, clients = server.children()["api"], []
    for pid in pids:
        others = [other for other in pids if other != pid]
        for other in others:
            os.kill(other, signal.SIGSTOP)
        # Without certificates, whose loading takes long; one connection, which is kept.
        http = httpx.Client(limits=httpx.Limits(max_connections=1), timeout=30, verify=False)
        http.get(server.url + "/liveness")
        clients.append((OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, http_client=http), pid))
        for other in others:
            os.kill(other, signal.SIGCONT)
    yield clients
    for client, _ in clients:
        client.close()


ENDLESS = {"input": "What is 1 + 1?", "background": True, "extra_body": {"ignore_eos": True}}


def test_stored_responses_are_the_same_in_every_api_process(clients):
    one, two, three = (client.responses for client, _ in clients)
    first = one.create(input="What is 1 + 1?", max_output_tokens=8, temperature=0)
    assert two.retrieve(first.id) == first
    second = two.create(input="And 2 + 2?", previous_response_id=first.id, max_output_tokens=8)
    assert [item.type for item in three.input_items.list(second.id)] == ["message"] * 3
    with three.create(input="What is 3 + 3?", max_output_tokens=8, stream=True) as stream:
        events = list(stream)
    with one.retrieve(events[0].response.id, stream=True) as replay:
        assert list(replay) == events
    two.delete(first.id)
    for responses in (one, two, three):
        with pytest.raises(NotFoundError):
            responses.retrieve(first.id)


def test_stored_chats_are_the_same_in_every_api_process(clients):
    one, two, three = (client.chat.completions for client, _ in clients)
    asked = {"model": "", "messages": [{"role": "user", "content": "What is 1 + 1?"}], "max_tokens": 8, "store": True}
    first = one.create(**asked, metadata={"topic": "sums"})
    assert two.retrieve(first.id) == first
    assert three.update(first.id, metadata={"topic": "more"}).choices == first.choices
    assert [chat.id for chat in one.list(metadata={"topic": "more"})] == [first.id]
    assert two.delete(first.id).deleted
    assert not three.list(metadata={"topic": "more"}).data


def test_a_response_is_followed_in_other_api_processes_while_it_is_written(clients):
    one, two, three = (client.responses for client, _ in clients)
    running = one.create(**ENDLESS, max_output_tokens=100)
    with two.retrieve(running.id, stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response == three.retrieve(running.id)
    assert events[-1].response.usage.output_tokens == 100
    with three.retrieve(running.id, stream=True, starting_after=5) as rest:
        assert list(rest) == events[6:]


def test_a_response_that_another_api_process_deletes_is_not_written_on(server, clients):
    one, two, three = (client.responses for client, _ in clients)
    running = one.create(**ENDLESS, max_output_tokens=3000)
    two.delete(running.id)
    assert eventually(lambda: server.metric("batch_current_size") == 0)
    with pytest.raises(NotFoundError):
        three.retrieve(running.id)


def test_a_response_is_cancelled_from_another_api_process(clients):
    one, two, three = (client.responses for client, _ in clients)
    running = one.create(**ENDLESS, max_output_tokens=3000)
    assert two.retrieve(running.id).status in ("queued", "in_progress")
    assert two.cancel(running.id).status == "cancelled"
    assert three.retrieve(running.id).status == "cancelled"


def test_a_response_has_failed_whose_api_process_died(clients):
    (one, pid), (two, _), _ = clients
    running = one.responses.create(**ENDLESS, max_output_tokens=3000)
    kill(pid)
    assert eventually(lambda: two.responses.retrieve(running.id).status == "failed")
    assert "has ended" in two.responses.retrieve(running.id).error.message
