"""A scheduler with a fake device one step behind it, and clients that fill the request table. For tests."""

import dataclasses
from collections import deque
from dataclasses import dataclass, field

import msgspec
import numpy as np

from lightllm.base.beams import BeamOptions
from lightllm.base.config import EngineConfig
from lightllm.base.messages import parse_references
from lightllm.base.metrics import Metrics
from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options, RequestTable, TableShape
from lightllm.base.step import StepPlan, StepResult, pack
from lightllm.serving.scheduling.plan import plan_bytes, result_bytes
from lightllm.serving.scheduling.scheduler import Scheduler
from tests.serving.scheduling import invariants
from tests.serving.scheduling.device import Device, alone

VOCABULARY = 64


@dataclass(eq=False)
class Asked:
    """A request as its client knows it."""

    index: int
    generation: int
    prompt: list[int]
    max_tokens: int
    stops: tuple[int, ...] = ()
    min_tokens: int = 0
    is_released: bool = False
    told: list[int] = field(default_factory=list)  # num_output each time it was reported

    def expected(self, vocabulary: int) -> list[int]:
        return alone(
            self.prompt, max_tokens=self.max_tokens, vocabulary=vocabulary, stops=self.stops, min_tokens=self.min_tokens
        )


class Engine:
    """`step` plans one step ahead of the device, as processes/scheduler.py does."""

    def __init__(
        self, *, pool_tokens: int = 4096, max_length: int = 2048, records: int = 256, clients: int = 2,
        output_pages: int | None = None, check: bool = True, vocabulary: int = VOCABULARY,
        ttft_target_s: float | None = None, small_tokens: int = 0, **settings
    ):  # fmt: skip
        self.config = EngineConfig(**settings)
        shape = TableShape.of(clients=clients, records=records, max_length=max_length)
        if output_pages is not None:
            shape = dataclasses.replace(shape, output_pages=output_pages)
        requests, metrics = RequestTable.create(shape), Metrics.create(1)
        self.table, self.metrics = RequestTable(requests, shape), Metrics(metrics, 0)
        for memory in (requests, metrics):
            memory.close()
        self.pool_tokens, self.max_length, self.check, self.vocabulary = pool_tokens, max_length, check, vocabulary
        self.now = 1.0
        self.scheduler = Scheduler(
            self.config, self.table, pool_tokens=pool_tokens, max_length=max_length, metrics=self.metrics,
            clock=lambda: self.now, ttft_target_s=ttft_target_s, small_tokens=small_tokens,
        )  # fmt: skip
        rows = self.config.running_max_req_size
        self.device = Device(pool_tokens=pool_tokens, rows=rows, max_length=max_length, vocabulary=vocabulary)
        self.results: deque[StepResult] = deque()
        self.plans: list[StepPlan] = []
        self.asked: dict[int, Asked] = {}
        self._pages = [self.table.client_pages(client) for client in range(clients)]
        self._buffer = np.zeros(plan_bytes(self.config, max_length), dtype=np.uint8)
        self._result_buffer = np.zeros(result_bytes(self.config, max_length), dtype=np.uint8)
        self._unused = [list(self.table.client_records(client))[::-1] for client in range(clients)]
        self._free_output_pages = self.scheduler._output._region.num_free

    def ask(
        self, prompt: list[int], max_tokens: int, *, client: int = 0, stops: tuple[int, ...] = (), min_tokens: int = 0,
        given: bool = True, num_logprobs: int = -1, num_prompt_logprobs: int = -1, priority: int = 0, tenant: int = 0,
        salt: int = 0, timeout_s: float | None = None, beams: BeamOptions | None = None,
    ) -> Asked:  # fmt: skip
        """Fills a record and submits it."""
        asked = self.fill(
            prompt, max_tokens, client=client, stops=stops, min_tokens=min_tokens, given=given,
            num_logprobs=num_logprobs, num_prompt_logprobs=num_prompt_logprobs, priority=priority, tenant=tenant,
            salt=salt, timeout_s=timeout_s, beams=beams,
        )  # fmt: skip
        self.scheduler.submit(asked.index, asked.generation)
        return asked

    def ask_samples(self, prompt: list[int], max_tokens: int, number: int, **options) -> list[Asked]:
        """Fills records for samples of one prompt, which come in one message."""
        samples = [self.fill(prompt, max_tokens, **options) for _ in range(number)]
        self.scheduler.submit_samples([(asked.index, asked.generation) for asked in samples])
        return samples

    def fill(
        self, prompt: list[int], max_tokens: int, *, client: int = 0, stops: tuple[int, ...] = (), min_tokens: int = 0,
        given: bool = True, num_logprobs: int = -1, num_prompt_logprobs: int = -1, priority: int = 0, tenant: int = 0,
        salt: int = 0, timeout_s: float | None = None, beams: BeamOptions | None = None,
    ) -> Asked:  # fmt: skip
        index = self._unused[client].pop()
        record, pages = self.table.records[index], self._pages[client]
        record["prompt_page"] = pages.store(np.array(prompt, dtype=np.int32))
        record["prompt_length"] = len(prompt)
        options = msgspec.msgpack.encode(Options(stop_token_ids=list(stops), beams=beams))
        record["options_page"], record["options_bytes"] = pages.store_bytes(options), len(options)
        record["max_tokens"], record["max_tokens_given"], record["min_tokens"] = max_tokens, given, min_tokens
        record["num_logprobs"], record["priority"], record["tenant"] = num_logprobs, priority, tenant
        record["timeout_s"], record["salt"] = timeout_s or 0, salt
        record["num_prompt_logprobs"] = num_prompt_logprobs
        record["generation"] += 1
        asked = Asked(index, int(record["generation"]), prompt, max_tokens, stops, min_tokens)
        self.asked[index] = asked
        return asked

    def release(self, asked: Asked) -> None:
        self.scheduler.release(asked.index, asked.generation)
        self.reclaim(asked)

    def reclaim(self, asked: Asked) -> None:
        """The client may use the record again."""
        assert not asked.is_released
        asked.is_released = True
        client = asked.index // self.table.shape.records
        record = self.table.records[asked.index]
        self._pages[client].release(int(record["prompt_page"]))
        self._pages[client].release(int(record["options_page"]))
        self._unused[client].append(asked.index)

    def step(self) -> bool:
        """Plans as far ahead as allowed, then takes in the oldest result. False: there is nothing to do."""
        while self.scheduler.num_outstanding < 2 and (plan := self.scheduler.plan()) is not None:
            self.launch(plan)
        if self.results:
            result = self.results.popleft()
            pack(result, self._result_buffer)
            self.scheduler.digest(result)
        elif not self.scheduler.num_outstanding:
            self.drain()
            return False
        self.drain()
        if self.check:
            invariants.check(self.scheduler)
        return True

    def launch(self, plan: StepPlan) -> None:
        pack(plan, self._buffer)
        assert len(plan.tokens) <= self.config.batch_max_tokens
        self.plans.append(plan)
        self.results.append(self.device.run(plan))

    def drain(self) -> None:
        message = self.scheduler.drain()
        if message is None:
            return
        for index, generation in parse_references(message.progressed).tolist():
            asked = self.asked[index]
            if asked.generation == generation and not asked.is_released:
                asked.told.append(int(self.table.records[index]["num_output"]))

    def run(self, most_steps: int = 20_000) -> None:
        """Until nothing is left to do."""
        for _ in range(most_steps):
            if not self.step():
                return
        raise AssertionError(f"not done after {most_steps} steps")

    def output(self, asked: Asked) -> list[int]:
        record = self.table.records[asked.index]
        assert record["output_generation"] == asked.generation
        return self.table.output(asked.index, 0, int(record["num_output"]))[:, 0].tolist()

    def finish(self, asked: Asked) -> FinishReason:
        return FinishReason(int(self.table.records[asked.index]["finish_reason"]))

    def field(self, asked: Asked, name: str) -> int:
        return int(self.table.records[asked.index][name])

    def check_output(self, asked: Asked) -> None:
        """Against the same request alone: the whole output, the reason, and that the end was reported."""
        expected = asked.expected(self.vocabulary)
        assert self.output(asked) == expected
        stopped = expected[-1] in asked.stops and len(expected) > asked.min_tokens
        assert self.finish(asked) == (FinishReason.STOP if stopped else FinishReason.LENGTH)
        assert asked.told[-1] == len(expected)

    def check_empty(self) -> None:
        """After all records were released: nothing is held, nothing is lost."""
        invariants.check(self.scheduler)
        assert not self.scheduler._requests
        assert self.scheduler._pool.num_used == 0
        assert self.scheduler._output._region.num_free == self._free_output_pages
        assert len(self.scheduler._running.rows._free) == len(self.scheduler._running.rows.requests)
