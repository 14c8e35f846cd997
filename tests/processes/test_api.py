"""The api process by itself: how it begins, drains and ends."""

import asyncio
import time

import httpx
import pytest

from tests.serving import checkpoint_for_tests
from tests.serving.live_api import LiveApi
from tests.serving.script_for_tests import endless

ENDLESS = {"prompt": "go", "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoint_for_tests.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def live(checkpoint):
    api = LiveApi(checkpoint, endless, engine={"tick_s": 0.002})
    yield api
    api.close()


async def stream(url: str, max_tokens: int) -> str:
    async with httpx.AsyncClient(base_url=url, timeout=20, verify=False) as http:
        return (await http.post("/v1/completions", json=ENDLESS | {"max_tokens": max_tokens})).text


async def drained(live: LiveApi, *lengths: int, seconds: float) -> list[str]:
    """What streams of these lengths got that were open when draining began."""
    streams = [asyncio.create_task(stream(live.url, length)) for length in lengths]
    while len(live.engine.running) < len(lengths):
        await asyncio.sleep(0.005)
    live.drain(seconds)
    async with httpx.AsyncClient(base_url=live.url, timeout=20, verify=False) as http:
        while (await http.get("/health")).status_code == 200:
            await asyncio.sleep(0.005)
        refused = await http.post("/v1/completions", json=ENDLESS)
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]["message"]
    return await asyncio.gather(*streams)


def test_draining_finishes_open_requests_and_refuses_new_ones(live):
    answers = asyncio.run(drained(live, *range(100, 150), seconds=10))
    assert all('"finish_reason":"length"' in text and text.endswith("data: [DONE]\n\n") for text in answers)
    assert live.join()


def test_what_is_not_done_in_time_ends_with_an_error(live):
    began = time.monotonic()
    (text,) = asyncio.run(drained(live, 4000, seconds=0.5))
    assert "shut down" in text.strip().split("\n\n")[-1]
    assert live.join()
    assert time.monotonic() - began < 5


def test_an_idle_process_ends_at_once(live):
    httpx.get(live.url + "/health", verify=False)
    began = time.monotonic()
    live.drain(60)
    assert live.join()
    assert time.monotonic() - began < 2
