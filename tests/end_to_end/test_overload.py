"""A real server that is asked for more than it can: everyone gets an answer or a status, and then it is as before."""

import asyncio
import json
from collections import Counter

import httpx

from tests.end_to_end.serving import Server, eventually
from tests.end_to_end.workload import MODEL

FLAGS = [
    "--max_total_token_num", "2000", "--running_max_req_size", "4", "--max_queued_requests", "6",
    "--httpserver_workers", "2", "--schedule_policy", "priority", "--ttft_target_s", "20",
]  # fmt: skip


async def ask(http: httpx.AsyncClient, number: int) -> tuple[int, int]:
    """Status, and tokens of the answer."""
    body = {
        "model": MODEL, "prompt": [300 + number] * (1 + number % 40), "max_tokens": 30, "ignore_eos": True,
        "priority": number % 3, "n": 1 + number % 2, "stream": number % 4 == 0,
        "stream_options": {"include_usage": True} if number % 4 == 0 else None,
    }  # fmt: skip
    if number % 10 == 9:
        body |= {"timeout_s": 0.001}
    response = await http.post("/v1/completions", json=body)
    if response.status_code != 200:
        error = response.json()["error"]
        assert int(response.headers["retry-after"]) >= 1
        assert error["type"] == {429: "rate_limit_error", 503: "service_unavailable_error"}[response.status_code]
        return response.status_code, 0
    usage = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")][-1:] or [response.text]
    return 200, json.loads(usage[0])["usage"]["completion_tokens"] // (1 + number % 2)


async def ask_all(server: Server, count: int) -> list[tuple[int, int]]:
    async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=count)) as http:
        return await asyncio.gather(*(ask(http, number) for number in range(count)))


def test_more_than_the_server_can_do_is_refused_and_the_rest_is_answered():
    with Server(*FLAGS) as server:
        for _ in range(2):
            answers = asyncio.run(ask_all(server, 40))
            statuses = Counter(status for status, _ in answers)
            assert set(statuses) <= {200, 429, 503}
            assert statuses[200] >= 4
            assert statuses[429] >= 1
            assert {tokens for status, tokens in answers if status == 200} == {30}, "an answer is a whole one"
            assert eventually(lambda: server.metric("kv_slots_used") == 0)
            assert server.metric("queue_size") == server.metric("batch_current_size") == 0
        assert server.metric("request_success") + server.metric("request_failure") >= 80
