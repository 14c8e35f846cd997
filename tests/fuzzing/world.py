"""Clients, a scheduler and a fake worker, without processes: events happen to them, and all that must hold is checked.

Messages lie in boxes until a `Turn` hears them, and results until it takes them in, so every order that processes can
come to is an episode. Time is what the turns say.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec

from lightllm.base.beams import BeamOptions
from lightllm.base.config import EngineConfig
from lightllm.base.errors import RequestError
from lightllm.base.messages import AnyMessage, Message, Reference, Requests
from lightllm.base.metrics import Metrics
from lightllm.base.request import SamplingParams, Terms
from lightllm.base.request_table import RequestTable, TableShape
from lightllm.base.status import State, Status
from lightllm.base.step import StepResult
from lightllm.base.task import Task
from lightllm.serving import vectors
from lightllm.serving.client import EngineClient
from lightllm.serving.scheduling import (
    intake,
    keyed_heap,
    length_history,
    prefix_tree,
    slots,
    step_budget,
    wait_prediction,
)
from lightllm.serving.scheduling import plan as planning
from lightllm.serving.scheduling.scheduler import Scheduler
from tests.fuzzing.answers import Answer, BeamAnswer, Search
from tests.fuzzing.events import (
    CLIENTS,
    CONTROL,
    DETOKENIZER,
    TICK_S,
    Ask,
    Crash,
    Die,
    Episode,
    Event,
    Release,
    Settings,
    Stop,
    Turn,
    WrongResult,
)
from tests.fuzzing.watch import Asked, Watch
from tests.fuzzing.worker import Worker
from tests.serving.scheduling import invariants

_SEEDS_OF_ASK, _VARIANTS = 64, 4
# Constants that only large servers reach, with values that small ones do.
_SMALL = [
    (intake, "_MOST_UNKNOWN", 2),
    (keyed_heap, "_FEW", 2),
    (length_history, "_ENOUGH", 2),
    (length_history, "_FEW", 1),
    (planning, "_FEWEST_PROMPT_TOKENS", 2),
    (planning, "_STOP_TOKENS", 3),
    (prefix_tree, "_LONGEST_GROWN", 6),
    (slots, "_BLOCK", 8),
    (step_budget, "_FEWEST", 3),
    (wait_prediction, "_FEWEST", 2),
]


class Box:
    """A channel: what was sent waits until it is heard."""

    def __init__(self) -> None:
        self.messages: deque[Message] = deque()

    def send(self, message: Message, /) -> None:
        self.messages.append(message)

    def receive(self) -> AnyMessage | None:
        return None


class World:
    """`happen` for one event, `finish` for the rest. Raises AssertionError, or whatever else went wrong."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.config = EngineConfig(**settings.config)  # type: ignore[arg-type]
        shape = TableShape.of(clients=settings.clients, records=settings.records, max_length=settings.max_length)
        if settings.output_pages is not None:
            shape = replace(shape, output_pages=settings.output_pages)
        memory = [RequestTable.create(shape), Metrics.create(1 + settings.clients), Status.create()]
        self.table, self.metrics, self.status = RequestTable(memory[0], shape), Metrics(memory[1], 0), Status(memory[2])
        self._client_metrics = [Metrics(memory[1], 1 + client) for client in range(settings.clients)]
        for segment in memory:
            segment.close()
        self.status.state = State.SERVING
        self.status.record["pool_tokens"] = settings.pool_tokens
        self.status.record["max_request_tokens"] = min(settings.max_length, settings.pool_tokens + 1)
        self.watch = Watch(settings, self.config, self.table, self.metrics)
        self.num_turns = 0
        self._asks: dict[int, list[Asked]] = {}  # by name
        self._answers: dict[int, Answer] = {}  # by seed
        self._boxes = [Box() for _ in range(settings.clients)]
        self._stops: deque[Reference] = deque()
        self._lost: deque[int] = deque()
        self._is_alive = [True] * settings.clients
        self._clients = [self._new_client(client) for client in range(settings.clients)]
        self._start_engine()
        self._handlers = {
            Ask: self._ask, Release: self._release, Stop: self._stop, Die: self._die, Crash: self._crash,
            WrongResult: self._wrong_result, Turn: self._turn,
        }  # fmt: skip

    def happen(self, event: Event) -> None:
        self._handlers[type(event)](event)

    def finish(self) -> None:
        """Everything ends, if it is waited for; and when all is released nothing is left."""
        if self.settings.is_awaited:
            self._await_ends()
        for client in self._clients:
            for request in client.open_requests:
                client.release(request)
        while not self._is_quiet():
            self._turn(Turn(lands=self.settings.outstanding))
        self.watch.is_empty(self.scheduler)
        for client in self._clients:
            assert client._records.num_free == self.settings.records, "all records are free"
            assert client._records._pages.num_free == self.table.shape.prompt_pages, "all pages are free"

    def _await_ends(self) -> None:
        most = 10 + 2 * sum(asked.steps_alone for asked in self.watch.asked.values())
        for _ in range(most):
            if self._is_quiet():
                break
            self._turn(Turn())
        assert self._is_quiet(), "what is left to do is done in the end"
        self.watch.all_ended()

    def _is_quiet(self) -> bool:
        """Whether another turn would change nothing."""
        has_messages = self._stops or self._lost or any(box.messages for box in self._boxes)
        return not has_messages and not self.scheduler.num_outstanding

    # ---- what clients do ----

    def _ask(self, event: Ask) -> None:
        if not self._is_alive[event.client]:
            return
        before = self._asks.get(event.after, [])[:1]
        prompt = [token for asked in before for token in asked.answer.tokens] + list(event.prompt)
        params = SamplingParams(
            n=event.n,
            max_tokens=event.max_tokens,
            min_tokens=event.min_tokens,
            temperature=0.5 + event.variant,
            stop_token_ids=list(event.stops),
            logprobs=event.logprobs,
            prompt_logprobs=event.prompt_logprobs,
            seed=_SEEDS_OF_ASK * event.name + event.variant,
        )
        if gives_vectors := self.settings.gives_vectors:
            params = msgspec.structs.replace(vectors.PARAMS, seed=params.seed)
        elif event.beams is not None:
            params = _searching(params, event.beams)
        terms = Terms(priority=event.priority, tenant=event.tenant, salt=event.tenant % 2, timeout_s=event.timeout_s)
        try:
            requests = self._clients[event.client].submit(prompt, params, terms=terms, wants_vector=gives_vectors)
        except RequestError:
            return
        max_tokens = int(self.table.records["max_tokens"][requests[0].index])
        together: list[Asked] = []
        for request, answer in zip(requests, self._new_answers(prompt, params, max_tokens), strict=True):
            self._answers[params.seed + request.sample] = answer
            asked = Asked(
                event.client, self._clients[event.client], request, answer,
                num_logprobs=params.num_logprobs, scores_prompt=request.wants_prompt,
                together=together if params.beams else [],
            )  # fmt: skip
            together.append(asked)
            self.watch.is_asked(asked, states_maximum=params.max_tokens is not None)
            self._asks.setdefault(event.name, []).append(asked)

    def _new_answers(self, prompt: list[int], params: SamplingParams, max_tokens: int) -> list[Answer]:
        """Of each sample."""
        vocabulary, stops = self.settings.vocabulary, frozenset(params.stop_token_ids)
        if params.beams is not None:
            search = Search(
                prompt, params.beams, max_tokens=max_tokens, min_tokens=params.min_tokens, stops=stops,
                vocabulary=vocabulary, num_logprobs=params.num_logprobs,
            )  # fmt: skip
            found = search.hypotheses[: params.n]
            return [BeamAnswer(prompt, search, one, max_tokens=max_tokens, stops=stops) for one in found]
        return [
            Answer(
                prompt,
                max_tokens=max_tokens,
                min_tokens=params.min_tokens,
                stops=stops,
                variant=(params.seed + sample) % _VARIANTS,
                vocabulary=vocabulary,
                bans_stops=self.settings.bans_stops,
            )
            for sample in range(params.n)
        ]

    def _release(self, event: Release) -> None:
        for asked in self._asks.get(event.name, [])[event.sample : event.sample + 1]:
            if self._is_alive[asked.client] and asked.owner is self._clients[asked.client]:
                asked.owner.release(asked.request)

    def _stop(self, event: Stop) -> None:
        named = self._asks.get(event.name, [])[event.sample : event.sample + 1]
        # A beam search knows no text, so nothing is ever found in it.
        self._stops += [asked.reference for asked in named if not asked.together]

    def _die(self, event: Die) -> None:
        if self._is_alive[event.client]:
            self._is_alive[event.client] = False
            self._boxes[event.client].messages.clear()
            self._lost.append(event.client)

    def _new_client(self, client: int) -> EngineClient:
        return EngineClient(
            self.table, client, scheduler=self._boxes[client], detokenizer=Box(), status=self.status,
            metrics=self._client_metrics[client], config=self.config, eos_ids=[],
            default_max_tokens=self.settings.default_max_tokens,
            task=Task("embed", 2) if self.settings.gives_vectors else Task(),
        )  # fmt: skip

    def _replace_lost_clients(self) -> None:
        for client in self._lost:
            self._clients[client], self._is_alive[client] = self._new_client(client), True
        self._lost.clear()

    # ---- what becomes of processes ----

    def _start_engine(self) -> None:
        settings = self.settings
        self.scheduler = Scheduler(
            self.config, self.table, pool_tokens=settings.pool_tokens, max_length=settings.max_length,
            metrics=self.metrics, clock=lambda: self.watch.now, ttft_target_s=settings.ttft_target_s,
            small_tokens=settings.small_tokens,
        )  # fmt: skip
        self.watch.starts(self.scheduler)
        self._worker = Worker(
            self._answers, pool_tokens=settings.pool_tokens, rows=self.config.running_max_req_size,
            gives_vectors=settings.gives_vectors,
        )  # fmt: skip
        self._results: deque[StepResult] = deque()
        self._last_result: StepResult | None = None

    def _crash(self, event: Crash) -> None:
        for client in range(self.settings.clients):
            self._clients[client].engine_lost("the worker died")
            self._boxes[client].messages.clear()
            for process in ("scheduler", "detokenizer"):
                self._clients[client].reconnect(process, self._boxes[client])
        self._replace_lost_clients()
        self._stops.clear()
        self._start_engine()

    def _wrong_result(self, event: WrongResult) -> None:
        result = self._results[1] if event.is_early and len(self._results) > 1 else self._last_result
        if result is None:
            return
        outstanding = self.scheduler.num_outstanding
        try:
            self.scheduler.digest(result)
        except AssertionError:
            assert self.scheduler.num_outstanding == outstanding, "a refused result changes nothing"
        else:
            raise AssertionError("a result that is not due is refused")

    # ---- what the scheduler's process does ----

    def _turn(self, event: Turn) -> None:
        self.num_turns += 1
        self.watch.now += event.ticks * TICK_S
        self._hear(event.hears)
        for _ in range(min(event.lands, len(self._results))):
            self._last_result = self._results.popleft()
            self.scheduler.digest(self._last_result)
        self.scheduler.expire()
        self.watch.looks()
        if (message := self.scheduler.drain()) is not None:
            self.watch.reports(message)
        if event.hears & CONTROL:
            self._replace_lost_clients()
        self._plan_ahead()
        self.status.show_queue(*self.scheduler.queue)
        self.watch.looks()
        invariants.check(self.scheduler)
        self._worker.check_tree(self.scheduler._pool.tree)

    def _hear(self, whom: int) -> None:
        while whom & DETOKENIZER and self._stops:
            reference = self._stops.popleft()
            self.watch.stops(reference)
            self.scheduler.stop(*reference)
        for client in self._lost if whom & CONTROL else ():
            self.scheduler.forget_client(client)
            for asked in [asked for asked in self.watch.known.values() if asked.client == client]:
                self.watch.releases(asked.reference)
        for client, box in enumerate(self._boxes):
            while whom & CLIENTS << client and box.messages:
                message = box.messages.popleft()
                assert isinstance(message, Requests), "clients only submit and release"
                self.watch.submits(message.submit, self.scheduler.submit_samples)
                for reference in message.release:
                    self.scheduler.release(*reference)
                    self.watch.releases(reference)

    def _plan_ahead(self) -> None:
        while self.scheduler.num_outstanding < self.settings.outstanding:
            if (plan := self.scheduler.plan()) is None:
                return
            self.watch.plans(plan)
            self._results.append(self._worker.run(plan))


def _searching(params: SamplingParams, beams: BeamOptions) -> SamplingParams:
    """The parameters for beams, without what these cannot be asked for."""
    return SamplingParams(
        n=min(params.n, beams.width),
        num_beams=beams.width,
        num_beam_groups=beams.groups,
        diversity_penalty=beams.diversity_penalty,
        length_penalty=beams.length_penalty,
        early_stopping=beams.early_stopping,
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        stop_token_ids=params.stop_token_ids[:3],
        logprobs=params.logprobs,
        seed=params.seed,
    )


def run(episode: Episode) -> World:
    """The whole episode. Raises what went wrong."""
    with _constants(small=episode.settings.has_small_constants):
        world = World(episode.settings)
        for event in episode.events:
            world.happen(event)
        world.finish()
        return world


@contextmanager
def _constants(*, small: bool) -> Iterator[None]:
    """Makes built-in constants small meanwhile."""
    usual = [(module, name, getattr(module, name)) for module, name, _ in _SMALL]
    for module, name, value in _SMALL if small else ():
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in usual:
            setattr(module, name, value)
