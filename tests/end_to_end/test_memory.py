"""The pool, seen from outside: shared while in use, and used to its last slot."""

import asyncio

import httpx

from tests.end_to_end.serving import Server
from tests.end_to_end.workload import MODEL

PROMPT = [300 + i % 3000 for i in range(1000)]


async def complete(url: str, **options) -> dict:
    async with httpx.AsyncClient(timeout=60) as client:
        body = {"model": MODEL, "temperature": 0, "ignore_eos": True} | options
        response = await client.post(url + "/v1/completions", json=body)
    return response.json()


def test_a_prompt_is_shared_while_it_is_prefilled():
    async def two_soon_after_one_another(url: str) -> list[dict]:
        first = asyncio.create_task(complete(url, prompt=PROMPT, max_tokens=4))
        await asyncio.sleep(0.02)
        assert not first.done()
        return [await complete(url, prompt=PROMPT, max_tokens=4), await first]

    with Server("--max_total_token_num", "5000", "--chunked_prefill_size", "32") as server:
        second, first = asyncio.run(two_soon_after_one_another(server.url))
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert second["choices"][0]["text"] == first["choices"][0]["text"]


def test_a_request_may_use_the_pool_to_its_last_slot():
    # The last token of an answer needs no slot.
    with Server("--max_total_token_num", "200") as server:
        exact = asyncio.run(complete(server.url, prompt=PROMPT[:100], max_tokens=101))
        larger = asyncio.run(complete(server.url, prompt=PROMPT[:100], max_tokens=102))
    assert exact["usage"]["completion_tokens"] == 101
    assert "--max_total_token_num" in larger["error"]["message"]
