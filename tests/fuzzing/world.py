"""Clients, a scheduler and a fake worker, without processes: events happen to them, and all that must hold is checked.

Messages lie in boxes until a `Turn` hears them, and results until it takes them in, so every order that processes can
come to is an episode. Time is what the turns say.
"""

import math
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from operator import attrgetter

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.base.errors import RequestError
from lightllm.base.messages import AnyMessage, Message, Reference, Requests, parse_references
from lightllm.base.metrics import Metrics
from lightllm.base.request import FinishReason, Refusal, SamplingParams, Terms
from lightllm.base.request_table import RequestTable, TableShape
from lightllm.base.status import State, Status
from lightllm.base.step import StepPlan, StepResult
from lightllm.serving import records
from lightllm.serving.client import EngineClient
from lightllm.serving.scheduling import keyed_heap, prefix_tree, slots, step_budget, wait_prediction
from lightllm.serving.scheduling import plan as planning
from lightllm.serving.scheduling.plan import StepLimits, plan_bytes
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.scheduler import Scheduler
from lightllm.serving.scheduling.waiting import Waiting
from tests.fuzzing.answers import Answer
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
from tests.fuzzing.worker import Worker
from tests.serving.scheduling import invariants
from tests.serving.scheduling.device import logprobs

SEEDS_OF_ASK = 64
_VARIANTS = 4
_SMALL = [
    (keyed_heap, "_FEW", 2),
    (planning, "_FEWEST_PROMPT_TOKENS", 2),
    (planning, "_STOP_TOKENS", 3),
    (prefix_tree, "_LONGEST_GROWN", 6),
    (slots, "_BLOCK", 8),
    (step_budget, "_FEWEST", 3),
    (wait_prediction, "_FEWEST", 2),
]
_arrays = attrgetter(*[field.name for field in fields(StepPlan) if field.name not in ("step", "begins")])


@dataclass(slots=True, eq=False)
class Asked:
    """A request as an observer knows it who sees its client and the scheduler."""

    client: int
    owner: EngineClient  # that client's process
    request: records.Request
    answer: Answer
    num_logprobs: int
    latest_step: int = 0  # by which it must have ended
    deadline: float = math.inf
    is_stopped: bool = False  # by a stop string, before it ended otherwise
    finish: FinishReason = FinishReason.NONE
    num_output: int = 0  # at its end
    is_end_reported: bool = False
    is_forgotten: bool = False  # the scheduler was told that it is released
    is_release_reported: bool = False

    @property
    def reference(self) -> Reference:
        return self.request.index, self.request.generation

    @property
    def steps_alone(self) -> int:
        """Steps it may take at most, from when it is the oldest."""
        return self.answer.prompt_length + self.answer.max_tokens + 4


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
        self._limits = StepLimits.of(self.config, settings.max_length)
        self._plan_bytes = plan_bytes(self.config, settings.max_length)
        columns = self.table.records
        self._finish_of, self._num_output_of = columns["finish_reason"], columns["num_output"]
        self._generation_of, self._output_generation_of = columns["generation"], columns["output_generation"]
        self.now, self.num_turns, self.num_steps = 1.0, 0, 0
        self.trace = 0  # checksum of all plans
        self._asks: dict[int, list[Asked]] = {}  # by name
        self._asked: dict[Reference, Asked] = {}
        self._answers: dict[int, Answer] = {}  # by seed
        self._known: dict[int, Asked] = {}  # by index: what the scheduler knows
        self._boxes = [Box() for _ in range(settings.clients)]
        self._stops: deque[Reference] = deque()
        self._lost: deque[int] = deque()
        self._is_alive = [True] * settings.clients
        self._clients = [self._new_client(client) for client in range(settings.clients)]
        self._is_foreseeable = self.config.admission == "conservative"  # nothing is expected that may be exceeded
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
        assert not self._known, "nothing is known of what was released"
        self._check_empty()

    def _await_ends(self) -> None:
        most = 10 + 2 * sum(asked.steps_alone for asked in self._asked.values())
        for _ in range(most):
            if self._is_quiet():
                break
            self._turn(Turn())
        assert self._is_quiet(), "what is left to do is done in the end"
        for asked in self._known.values():
            assert asked.finish, "every request ends"
            assert asked.is_end_reported, "every end is reported"

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
            seed=SEEDS_OF_ASK * event.name + event.variant,
        )
        terms = Terms(priority=event.priority, tenant=event.tenant, timeout_s=event.timeout_s)
        try:
            requests = self._clients[event.client].submit(prompt, params, terms=terms)
        except RequestError:
            return
        self._is_foreseeable &= event.max_tokens is not None
        max_tokens = int(self.table.records["max_tokens"][requests[0].index])
        for request in requests:
            seed = SEEDS_OF_ASK * event.name + event.variant + request.sample
            self._answers[seed] = Answer(
                prompt, max_tokens=max_tokens, min_tokens=event.min_tokens, stops=event.stops,
                variant=seed % _VARIANTS, vocabulary=self.settings.vocabulary, bans_stops=self.settings.bans_stops,
            )  # fmt: skip
            asked = Asked(
                event.client, self._clients[event.client], request, self._answers[seed],
                num_logprobs=-1 if event.logprobs is None else event.logprobs,
            )  # fmt: skip
            assert asked.reference not in self._asked, "a reference means one request for ever"
            self._asked[asked.reference] = asked
            self._asks.setdefault(event.name, []).append(asked)

    def _release(self, event: Release) -> None:
        for asked in self._asks.get(event.name, [])[event.sample : event.sample + 1]:
            if self._is_alive[asked.client] and asked.owner is self._clients[asked.client]:
                asked.owner.release(asked.request)

    def _stop(self, event: Stop) -> None:
        self._stops += [asked.reference for asked in self._asks.get(event.name, [])[event.sample : event.sample + 1]]

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
        )  # fmt: skip

    # ---- what becomes of processes ----

    def _start_engine(self) -> None:
        settings = self.settings
        self.scheduler = Scheduler(
            self.config, self.table, pool_tokens=settings.pool_tokens, max_length=settings.max_length,
            metrics=self.metrics, clock=lambda: self.now, ttft_target_s=settings.ttft_target_s,
        )  # fmt: skip
        self._watch_admissions(self.scheduler._waiting)
        self._watch_preemptions(self.scheduler)
        self._worker = Worker(self._answers, pool_tokens=settings.pool_tokens, rows=self.config.running_max_req_size)
        self._results: deque[StepResult] = deque()
        self._last_result: StepResult | None = None

    def _crash(self, event: Crash) -> None:
        for client in range(self.settings.clients):
            self._clients[client].engine_lost("the worker died")
            self._boxes[client].messages.clear()
            for process in ("scheduler", "detokenizer"):
                self._clients[client].reconnect(process, self._boxes[client])
        for client in self._lost:
            self._clients[client], self._is_alive[client] = self._new_client(client), True
        self._lost.clear()
        self._stops.clear()
        self._known.clear()
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
        self.now += event.ticks * TICK_S
        if event.hears & DETOKENIZER:
            self._hear_stops()
        if event.hears & CONTROL:
            for client in self._lost:
                self._forget(client)
        for client in range(self.settings.clients):
            if event.hears & CLIENTS << client:
                self._hear_client(client)
        for _ in range(min(event.lands, len(self._results))):
            self._last_result = self._results.popleft()
            self.scheduler.digest(self._last_result)
        self.scheduler.expire()
        self._look()
        self._report()
        if event.hears & CONTROL:
            for client in self._lost:
                self._clients[client], self._is_alive[client] = self._new_client(client), True
            self._lost.clear()
        while (
            self.scheduler.num_outstanding < self.settings.outstanding and (plan := self.scheduler.plan()) is not None
        ):
            self._launch(plan)
        self.status.show_queue(*self.scheduler.queue)
        self._look()
        invariants.check(self.scheduler)
        self._worker.check_tree(self.scheduler._pool.tree)

    def _hear_stops(self) -> None:
        while self._stops:
            index, generation = self._stops.popleft()
            asked = self._known.get(index)
            if asked is not None and asked.request.generation == generation and not asked.finish:
                asked.is_stopped = True
            self.scheduler.stop(index, generation)

    def _forget(self, client: int) -> None:
        self.scheduler.forget_client(client)
        for asked in [asked for asked in self._known.values() if asked.client == client]:
            self._forgotten(asked)

    def _hear_client(self, client: int) -> None:
        messages = self._boxes[client].messages
        while messages:
            message = messages.popleft()
            assert isinstance(message, Requests), "clients only submit and release"
            self._submit(message.submit)
            for index, generation in message.release:
                self.scheduler.release(index, generation)
                if (asked := self._known.get(index)) is not None and asked.request.generation == generation:
                    self._forgotten(asked)

    def _submit(self, references: list[Reference]) -> None:
        samples = [self._asked[one] for one in references if int(self._generation_of[one[0]]) == one[1]]
        is_full = self._is_queue_full(samples)
        self.scheduler.submit_samples(references)
        for asked in samples:
            asked.deadline = self.now + (float(self.table.records["timeout_s"][asked.request.index]) or math.inf)
            self._bound_steps(asked)
            self._known[asked.request.index] = asked
        refusals = {Refusal(int(self.table.records["refusal"][asked.request.index])) for asked in samples}
        if is_full:
            assert refusals <= {Refusal.QUEUE_REQUESTS, Refusal.QUEUE_TOKENS}, "no more wait than may"
        else:
            assert refusals <= {Refusal.NONE, Refusal.TOO_LATE}, "who may wait is let in"
        assert len(refusals) <= 1, "of the samples of a prompt all are refused, or none"

    def _is_queue_full(self, samples: list[Asked]) -> bool:
        """Whether these requests have to be refused because of those that wait."""
        records, config = self.table.records, self.config
        waiting = [index for index in self._known if not self._finish_of[index] and not records["started"][index]]
        if not waiting or not samples:
            return False
        tokens = sum(self._known[index].answer.prompt_length for index in waiting)
        tokens += sum(asked.answer.prompt_length for asked in samples)
        is_long = config.max_queued_tokens is not None and tokens > config.max_queued_tokens
        return is_long or len(waiting) + len(samples) > config.max_queued_requests

    def _bound_steps(self, asked: Asked) -> None:
        """Sets by which step a request must have ended that comes now, whoever else is there."""
        others = [other for other in self._known.values() if not other.finish]
        asked.latest_step = self.num_steps + sum(one.steps_alone for one in [*others, asked])
        if self.config.schedule_policy != "fcfs" or self.config.prompts_first:
            for other in others:
                other.latest_step += asked.steps_alone

    def _forgotten(self, asked: Asked) -> None:
        """The scheduler was told that nobody needs this request."""
        del self._known[asked.request.index]
        asked.is_forgotten = True
        assert self._output_generation_of[asked.request.index] != asked.request.generation, "what is released is gone"

    def _report(self) -> None:
        """What the detokenizer would hear, and clients see of it."""
        message = self.scheduler.drain()
        if message is None:
            return
        for index, generation in parse_references(message.progressed).tolist():
            assert (index, generation) in self._asked, "only what was asked progresses"
            asked = self._known.get(index)
            if asked is not None and asked.request.generation == generation and asked.finish:
                asked.is_end_reported = asked.request.is_finished = True
        for index, generation in parse_references(message.released).tolist():
            asked = self._asked[index, generation]
            assert asked.is_forgotten, "only what was released is reported so"
            assert not asked.is_release_reported, "a release is reported once"
            asked.is_release_reported = True

    def _launch(self, plan: StepPlan) -> None:
        self.num_steps += 1
        limits = self._limits
        for array in _arrays(plan):
            self.trace = zlib.crc32(array, self.trace)
        assert len(plan.tokens) <= limits.tokens, "a step runs no more tokens than allowed"
        assert len(plan.rows) <= limits.rows, "a step runs no more requests than allowed"
        assert plan.counts.max() <= limits.chunk, "no request runs more tokens of a step than allowed"
        assert sum(array.nbytes for array in _arrays(plan)) + plan.begins.nbytes <= self._plan_bytes, (
            "every plan fits its place in the ring"
        )
        self._results.append(self._worker.run(plan))
        if self._is_foreseeable:
            assert not self.metrics.total("preemptions"), "with stated maxima the pool is never exceeded"

    # ---- what must hold ----

    def _watch_preemptions(self, scheduler: Scheduler) -> None:
        """Sees to it that the oldest request always goes on, where there are priorities the oldest of the first."""
        rows, make_room = scheduler._running.rows, scheduler._preemption.make_room
        has_priorities = self.config.schedule_policy == "priority"

        def watched(tokens: int) -> list[Request]:
            running = [rows.requests[row] for row in rows.taking_part().tolist()]
            first = min(running, key=lambda one: (one.priority * has_priorities, one.order), default=None)
            preempted = make_room(tokens)
            assert first not in preempted, "the oldest always goes on"
            return preempted

        scheduler._preemption.make_room = watched

    def _watch_admissions(self, waiting: Waiting) -> None:
        """Sees to it that of any two requests that are admitted one is the oldest, once that has waited too long."""
        admit, was_passed_over = waiting.admit, False

        def watched(request: Request, now: float) -> None:
            nonlocal was_passed_over
            oldest = min(waiting, key=lambda one: one.order)
            is_passed_over = request is not oldest and now - oldest.came > self.config.schedule_aging_s
            assert not (is_passed_over and was_passed_over), "who is oldest is not passed over twice"
            was_passed_over = is_passed_over
            admit(request, now)

        waiting.admit = watched

    def _look(self) -> None:
        """What has ended has ended right, and stays as it was."""
        for asked in self._known.values():
            index = asked.request.index
            finish = int(self._finish_of[index])
            if not finish:
                assert self.num_steps <= asked.latest_step, "nobody waits longer than those before it take"
                assert self.now < asked.deadline, "what is late ends"
            elif not asked.finish:
                asked.finish, asked.num_output = FinishReason(finish), int(self._num_output_of[index])
                self._check_end(asked)
            else:
                assert finish == asked.finish, "a request ends once"
                assert self._num_output_of[index] == asked.num_output, "nothing is generated after the end"

    def _check_end(self, asked: Asked) -> None:
        index, answer, finish = asked.request.index, asked.answer, asked.finish
        assert self._output_generation_of[index] == asked.request.generation, "what is written says for whom"
        if asked.request.is_released:  # its client may have put something else in the record
            return
        if asked.is_stopped:
            assert finish is FinishReason.STOP, "a stop string ends a request"
        elif finish not in (FinishReason.STOP, FinishReason.LENGTH):
            self._check_early_end(asked)
        else:
            assert finish is (FinishReason.STOP if answer.is_stopped else FinishReason.LENGTH), "it ends as it must"
            assert asked.num_output == len(answer.output), "it ends when it must"
        output = self.table.output(index, 0, asked.num_output)
        assert output[:, 0].tolist() == answer.output[: asked.num_output], "a request gets what it gets alone"
        if asked.num_logprobs >= 0:
            self._check_logprobs(output, asked.num_logprobs)

    def _check_early_end(self, asked: Asked) -> None:
        match asked.finish:
            case FinishReason.REFUSED:
                assert self.table.records["refusal"][asked.request.index], "who is refused is told why"
                assert not asked.num_output, "what was refused has not run"
            case FinishReason.TIMEOUT:
                assert self.now >= asked.deadline, "what is not late goes on"
            case FinishReason.ERROR:
                assert self.settings.output_pages is not None, "only a lack of pages fails a request"
            case _:
                raise AssertionError("nothing else ends what is wanted")

    def _check_logprobs(self, output: np.ndarray, count: int) -> None:
        for words in output:
            logprob, top, top_logprobs = logprobs(int(words[0]), count)
            assert words[1:2].view(np.float32) == logprob, "logprobs lie beside their tokens"
            assert words[2 : 2 + count].tolist() == top.tolist(), "logprobs lie beside their tokens"
            assert words[2 + count :].view(np.float32).tolist() == top_logprobs.tolist(), "each beside its token"

    def _is_quiet(self) -> bool:
        """Whether another turn would change nothing."""
        has_messages = self._stops or self._lost or any(box.messages for box in self._boxes)
        return not has_messages and not self.scheduler.num_outstanding

    def _check_empty(self) -> None:
        scheduler, settings = self.scheduler, self.settings
        assert not scheduler._requests, "nothing is left of what was released"
        assert not len(scheduler._waiting), "nothing is left in the queue"
        assert scheduler.queue[:2] == (0, 0), "nothing is left in the queue"
        assert scheduler.next_deadline == math.inf, "nothing is left that may be late"
        assert scheduler._wait._running == 0, "no work is left"
        assert scheduler._pool.num_used == 0, "all slots are free, or kept by the tree alone"
        assert scheduler._output._region.num_free == self.table.shape.output_pages, "all pages are free"
        for client in self._clients:
            assert client._records.num_free == settings.records, "all records are free"
            assert client._records._pages.num_free == self.table.shape.prompt_pages, "all pages are free"


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
