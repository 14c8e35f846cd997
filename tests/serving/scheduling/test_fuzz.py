"""Whatever is asked, stopped, released or lost, in whatever order: outputs are right and memory adds up."""

import random

import pytest

from lightllm.base.request import FinishReason
from tests.serving.scheduling.engine import Asked, Engine


class Fuzzer:
    """One seed is one scenario; a failing seed replays exactly."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        draw = self.random
        chunk = draw.choice([1, 3, 16, None])
        self.engine = Engine(
            pool_tokens=draw.choice([70, 100, 333]),
            max_length=64,
            records=24,
            vocabulary=draw.choice([2, 5, 50]),
            admission=draw.choice(["past_future", "conservative", "watermark"]),
            watermark=draw.choice([0.5, 0.95, 1.0]),
            disable_dynamic_prompt_cache=draw.random() < 0.25,
            batch_max_tokens=draw.choice([8, 24, 400]),
            chunked_prefill_size=chunk,
            running_max_req_size=draw.choice([1, 4, 16]),
            router_max_new_token_len=draw.choice([1, 8, 64]),
        )
        self.prompts = [[draw.randrange(50) for _ in range(draw.randint(1, 48))] for _ in range(3)]
        self.open: list[Asked] = []
        self.num_finished = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.act()
            self.engine.step()
            self.look()
        while self.engine.step():
            self.look()
        self.look()
        assert all(self.engine.finish(asked) for asked in self.open), "every request ends"
        for asked in self.open:
            self.engine.release(asked)
        self.engine.drain()
        self.engine.check_empty()

    def act(self) -> None:
        draw = self.random
        if draw.random() < 0.5 and len(self.open) < 20:
            self.ask(number=draw.choice([1, 1, 3]))
        if self.open and draw.random() < 0.1:
            asked = self.open.pop(draw.randrange(len(self.open)))
            self.engine.release(asked)
        if self.open and draw.random() < 0.05:
            asked = draw.choice(self.open)
            if not self.engine.finish(asked):
                self.engine.scheduler.stop(asked.index, asked.generation)
                assert self.engine.finish(asked) == FinishReason.STOP
                asked.max_tokens = max(1, len(self.engine.output(asked)))
                self.engine.release(asked)
                self.open.remove(asked)
        if draw.random() < 0.01:
            self.lose_client(draw.randrange(2))

    def ask(self, number: int) -> None:
        draw = self.random
        prompt = draw.choice(self.prompts)[: draw.randint(1, 48)] + [draw.randrange(50)] * draw.randint(0, 2)
        for _ in range(number):
            asked = self.engine.ask(
                prompt,
                draw.randint(1, min(64 - len(prompt), 30)),
                client=draw.randrange(2),
                stops=tuple(draw.sample(range(50), draw.randint(0, 3))),
                min_tokens=draw.choice([0, 0, 4]),
                given=draw.random() < 0.5,
                num_logprobs=draw.choice([-1, -1, 0, 2]),
            )
            self.open.append(asked)

    def lose_client(self, client: int) -> None:
        self.engine.scheduler.forget_client(client)
        lost = [asked for asked in self.open if asked.index in self.engine.table.client_records(client)]
        for asked in lost:
            self.open.remove(asked)
            self.engine.reclaim(asked)

    def look(self) -> None:
        for asked in [asked for asked in self.open if self.engine.finish(asked)]:
            self.engine.check_output(asked)
            self.num_finished += 1
            if self.random.random() < 0.5:
                self.open.remove(asked)
                self.engine.release(asked)


def run(seeds: range, *, steps: int) -> None:
    for seed in seeds:
        try:
            Fuzzer(seed).run(steps)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize("decade", range(12))
def test_any_sequence_of_events_keeps_outputs_and_memory_right(decade: int):
    run(range(10 * decade, 10 * decade + 10), steps=25)


@pytest.mark.slow
@pytest.mark.parametrize("century", range(4))
def test_any_long_sequence_of_events_keeps_outputs_and_memory_right(century: int):
    run(range(1000 + 100 * century, 1100 + 100 * century), steps=200)
