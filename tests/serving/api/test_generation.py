import asyncio

import numpy as np
import pytest

from lightllm.base.request import FinishReason, SamplingParams, Terms
from lightllm.serving.api.generation import Generation
from lightllm.serving.records import Request, Update


class Client:
    """An engine's client whose requests end when `end` says so."""

    def __init__(self):
        self.ended: set[int] = set()

    def submit(self, prompt, params, on_news, *, terms, wants_vector):
        self.on_news = on_news
        self.requests = [Request(i, 1, i, len(prompt), [], None, 0.0) for i in range(params.n)]  # type: ignore[arg-type]
        return self.requests

    def tell(self, sample: int) -> None:
        self.requests[sample].has_news = True
        self.on_news(self.requests[sample])

    def has_ended(self, request: Request) -> bool:
        return request.index in self.ended

    def read(self, request: Request, *, with_tokens: bool) -> Update:
        request.has_news = False
        request.is_finished = self.has_ended(request)
        return Update(finish_reason=FinishReason.STOP if request.is_finished else None)


@pytest.mark.parametrize("until_end", [False, True])
def test_an_end_that_is_read_before_its_news_comes_counts_once(until_end):
    client = Client()
    generation = Generation(client, Terms(), until_end=until_end)  # type: ignore[arg-type]
    generation.submit(np.zeros(3, np.int32), SamplingParams(n=2))

    async def ends() -> list[int]:
        updates, found = generation.updates(with_tokens=False), []
        client.ended.add(1)
        client.tell(1)
        found += [choice for choice, update in await anext(updates) if update.finish_reason]
        client.tell(1)
        client.ended.add(0)
        client.tell(0)
        async for more in updates:
            found += [choice for choice, update in more if update.finish_reason]
        return found

    assert asyncio.run(asyncio.wait_for(ends(), 5)) == [1, 0]
