"""Features cross: 64 requests at once give what each gives alone, under every pair of engine settings."""

import asyncio
import math

import pytest
from openai import AsyncOpenAI

from tests.end_to_end import workload
from tests.end_to_end.serving import Server, eventually

AMPLE = ["--max_total_token_num", "60000"]
# So small that the watermark policy, which does not look ahead, runs out and must preempt.
SMALL = ["--max_total_token_num", "600", "--max_req_total_len", "600", "--admission", "watermark", "--watermark", "1.0"]
CACHE_OFF = ["--disable_dynamic_prompt_cache"]
CHUNK = {size: ["--chunked_prefill_size", str(size)] for size in (16, 4096)}
RANKS = {ranks: ["--tp", str(ranks)] for ranks in (1, 2)}

# Every pair of {cache on, off} x {chunks} x {pool} x {ranks} occurs in some line.
PAIRWISE = {
    "cache, chunk 16, ample, 1 rank": CHUNK[16] + AMPLE + RANKS[1],
    "cache, chunk 4096, small, 2 ranks": CHUNK[4096] + SMALL + RANKS[2],
    "no cache, chunk 16, small, 2 ranks": CACHE_OFF + CHUNK[16] + SMALL + RANKS[2],
    "no cache, chunk 4096, ample, 2 ranks": CACHE_OFF + CHUNK[4096] + AMPLE + RANKS[2],
    "no cache, chunk 4096, small, 1 rank": CACHE_OFF + CHUNK[4096] + SMALL + RANKS[1],
    "cache, chunk 16, ample, 2 ranks": CHUNK[16] + AMPLE + RANKS[2],
}


def client_of(server: Server) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def alone() -> list[list[workload.Answer]]:
    """What each request gives when nothing else runs, nothing is shared and nothing is chunked."""

    async def one_by_one(server: Server) -> list[list[workload.Answer]]:
        async with client_of(server) as client:
            return [await workload.run(client, request) for request in workload.requests() if not request.is_aborted]

    with Server(*CACHE_OFF, *AMPLE) as server:
        return asyncio.run(one_by_one(server))


@pytest.mark.parametrize("flags", PAIRWISE.values(), ids=PAIRWISE)
def test_requests_at_once_give_what_each_gives_alone(alone, flags):
    async def at_once(server: Server) -> list[list[workload.Answer]]:
        async with client_of(server) as client:
            return await asyncio.gather(*(workload.run(client, request) for request in workload.requests()))

    with Server(*flags, "--log_stats_interval", "1") as server:
        answers = asyncio.run(at_once(server))
        kept = [answer for answer, request in zip(answers, workload.requests(), strict=True) if not request.is_aborted]
        for got, expected in zip(kept, alone, strict=True):
            assert [answer.text for answer in got] == [answer.text for answer in expected]
            assert [answer.finish_reason for answer in got] == [answer.finish_reason for answer in expected]
            assert [answer.tokens for answer in got] == [answer.tokens for answer in expected]
            for one, other in zip(got, expected, strict=True):
                assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(one.logprobs, other.logprobs, strict=True))
        if "watermark" in flags:
            assert server.metric("preemptions") > 0, server.output
        assert eventually(lambda: server.metric("batch_current_size") == 0)
        assert server.metric("kv_slots_used") == 0
