"""Sees to it that all that must hold does: an observer of the scheduler, of clients, and of what they say.

It knows what every request should get, and does not believe the scheduler.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter

import numpy as np

from lightllm.base.config import EngineConfig
from lightllm.base.messages import Progress, Reference, parse_references
from lightllm.base.metrics import Metrics
from lightllm.base.request import FinishReason, Refusal
from lightllm.base.request_table import RequestTable
from lightllm.base.step import StepPlan
from lightllm.serving import records
from lightllm.serving.client import EngineClient
from lightllm.serving.scheduling.plan import StepLimits, plan_bytes
from lightllm.serving.scheduling.request import Request
from lightllm.serving.scheduling.scheduler import Scheduler
from lightllm.serving.scheduling.waiting import Waiting
from tests.fuzzing.answers import Answer, score
from tests.fuzzing.events import Settings

_arrays = attrgetter(*[field.name for field in fields(StepPlan) if field.type is np.ndarray and field.name != "begins"])


@dataclass(slots=True, eq=False)
class Asked:
    """A request as an observer knows it who sees its client and the scheduler."""

    client: int
    owner: EngineClient  # that client's process
    request: records.Request
    answer: Answer
    num_logprobs: int
    scores_prompt: bool
    together: list["Asked"]  # with it the others end: the samples of a beam search, itself among them
    has_place: bool = True  # in the queue, of its own: of a search only the first of whom the scheduler hears
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
        return self.answer.steps_alone


class Watch:
    """`known` is what the scheduler knows, by index; `now` and `num_steps` say when it is. Raises AssertionError."""

    def __init__(self, settings: Settings, config: EngineConfig, table: RequestTable, metrics: Metrics):
        self._settings, self._config, self._metrics = settings, config, metrics
        self._table = table
        self._columns = {name: table.records[name] for name in table.records.dtype.names or ()}
        self._limits = StepLimits.of(config, settings.max_length)
        self._plan_bytes = plan_bytes(config, settings.max_length)
        self._is_foreseeable = config.admission == "conservative"  # nothing is expected that may be exceeded
        self.asked: dict[Reference, Asked] = {}
        self.known: dict[int, Asked] = {}
        self.now, self.num_steps = 1.0, 0
        self.trace = 0  # checksum of all plans

    # ---- what is done to the scheduler ----

    def starts(self, scheduler: Scheduler) -> None:
        """The engine starts, or starts again, and knows nothing."""
        self.known.clear()
        self._watch_admissions(scheduler._waiting)
        self._watch_preemptions(scheduler)

    def is_asked(self, asked: Asked, *, states_maximum: bool) -> None:
        """A client has filled a record."""
        assert asked.reference not in self.asked, "a reference means one request for ever"
        self.asked[asked.reference] = asked
        self._is_foreseeable &= states_maximum

    def submits(self, references: list[Reference], submit: Callable[[list[Reference]], None]) -> None:
        """The scheduler hears of the samples of a prompt."""
        samples = [self.asked[one] for one in references if int(self._columns["generation"][one[0]]) == one[1]]
        for asked in samples:
            asked.has_place = not asked.together or asked is samples[0]
        is_full = self._is_queue_full(samples)
        submit(references)
        for asked in samples:
            asked.deadline = self.now + (float(self._columns["timeout_s"][asked.request.index]) or math.inf)
            self._bound_steps(asked)
            self.known[asked.request.index] = asked
        refusals = {Refusal(int(self._columns["refusal"][asked.request.index])) for asked in samples}
        assert len(refusals) <= 1, "of the samples of a prompt all are refused, or none"
        if is_full:
            assert refusals <= {Refusal.QUEUE_REQUESTS, Refusal.QUEUE_TOKENS}, "no more wait than may"
        else:
            assert refusals <= {Refusal.NONE, Refusal.TOO_LATE}, "who may wait is let in"

    def stops(self, reference: Reference) -> None:
        """The scheduler hears that a stop string was found."""
        asked = self._current(reference)
        if asked is not None and not asked.finish:
            asked.is_stopped = True

    def releases(self, reference: Reference) -> None:
        """The scheduler has heard that nobody needs this request."""
        asked = self._current(reference)
        if asked is not None:
            del self.known[asked.request.index]
            asked.is_forgotten = True
            generation = self._columns["output_generation"][asked.request.index]
            assert generation != asked.request.generation, "what is released is gone"

    # ---- what it does ----

    def looks(self) -> None:
        """What has ended has ended right, and stays as it was."""
        finish_of, num_output_of = self._columns["finish_reason"], self._columns["num_output"]
        for index, asked in self.known.items():
            finish = int(finish_of[index])
            if not finish:
                assert self.num_steps <= asked.latest_step, "nobody waits longer than those before it take"
                assert self.now < asked.deadline, "what is late ends"
            elif not asked.finish:
                asked.finish, asked.num_output = FinishReason(finish), int(num_output_of[index])
                self._check_end(asked)
            else:
                assert finish == asked.finish, "a request ends once"
                assert num_output_of[index] == asked.num_output, "nothing is generated after the end"

    def reports(self, message: Progress) -> None:
        """What the detokenizer would hear, and clients see of it."""
        for reference in map(tuple, parse_references(message.progressed).tolist()):
            assert reference in self.asked, "only what was asked progresses"
            asked = self._current(reference)
            if asked is not None and asked.finish:
                asked.is_end_reported = asked.request.is_finished = True
        for reference in map(tuple, parse_references(message.released).tolist()):
            asked = self.asked[reference]
            assert asked.is_forgotten, "only what was released is reported so"
            assert not asked.is_release_reported, "a release is reported once"
            asked.is_release_reported = True

    def plans(self, plan: StepPlan) -> None:
        """The next step."""
        self.num_steps += 1
        limits, arrays = self._limits, _arrays(plan)
        for array in arrays:
            self.trace = zlib.crc32(array, self.trace)
        assert len(plan.tokens) <= limits.tokens, "a step runs no more tokens than allowed"
        assert len(plan.rows) <= limits.rows, "a step runs no more requests than allowed"
        assert plan.counts.max() <= limits.chunk, "no request runs more tokens of a step than allowed"
        size = plan.begins.nbytes + sum(array.nbytes for array in arrays)
        assert size <= self._plan_bytes, "every plan fits its place in the ring"
        if self._is_foreseeable:
            assert not self._metrics.total("preemptions"), "with stated maxima the pool is never exceeded"

    def all_ended(self) -> None:
        """Everything that clients waited for has ended, and they know."""
        for asked in self.known.values():
            assert asked.finish, "every request ends"
            assert asked.is_end_reported, "every end is reported"

    def is_empty(self, scheduler: Scheduler) -> None:
        """Everything was released."""
        assert not self.known, "nothing is known of what was released"
        assert not scheduler._requests, "nothing is left of what was released"
        assert not len(scheduler._waiting), "nothing is left in the queue"
        assert scheduler.queue[:2] == (0, 0), "nothing is left in the queue"
        assert scheduler.next_deadline == math.inf, "nothing is left that may be late"
        assert scheduler._wait._running == 0, "no work is left"
        assert scheduler._pool.num_used == 0, "all slots are free, or kept by the tree alone"
        assert scheduler._output._region.num_free == self._table.shape.output_pages, "all pages are free"

    # ---- how ----

    def _current(self, reference: Reference) -> Asked | None:
        asked = self.known.get(reference[0])
        return asked if asked is not None and asked.reference == reference else None

    def _is_queue_full(self, samples: list[Asked]) -> bool:
        """Whether these requests have to be refused because of those that wait."""
        finish, started, config = self._columns["finish_reason"], self._columns["started"], self._config
        waiting = [asked for index, asked in self.known.items() if not finish[index] and not started[index]]
        places = [asked for asked in waiting if asked.has_place]
        if not places or not samples:
            return False
        places += [asked for asked in samples if asked.has_place]
        tokens = sum(asked.answer.prompt_length for asked in places)
        is_long = config.max_queued_tokens is not None and tokens > config.max_queued_tokens
        return is_long or len(places) > config.max_queued_requests

    def _bound_steps(self, asked: Asked) -> None:
        """Sets by which step a request must have ended that comes now, whoever else is there."""
        others = [other for other in self.known.values() if not other.finish]
        asked.latest_step = self.num_steps + sum(one.steps_alone for one in [*others, asked])
        # Who comes later may go first, or have another one set back that would cost less.
        config = self._config
        if config.schedule_policy != "fcfs" or config.prompts_first or config.preemption == "cheapest":
            for other in others:
                other.latest_step += asked.steps_alone

    def _check_end(self, asked: Asked) -> None:
        index, answer, finish = asked.request.index, asked.answer, asked.finish
        generation = self._columns["output_generation"][index]
        assert generation == asked.request.generation, "what is written says for whom"
        # Its client may have put something else in the record, or has left the search before it was whole.
        if any(one.request.is_released for one in [asked, *asked.together]):
            return
        if asked.is_stopped:
            assert finish is FinishReason.STOP, "a stop string ends a request"
        elif finish not in (FinishReason.STOP, FinishReason.LENGTH):
            self._check_early_end(asked)
        else:
            assert finish is (FinishReason.STOP if answer.is_stopped else FinishReason.LENGTH), "it ends as it must"
            assert asked.num_output == len(answer.output), "it ends when it must"
        output = self._table.output(index, 0, asked.num_output)
        assert output[:, 0].tolist() == answer.output[: asked.num_output], "a request gets what it gets alone"
        if asked.num_logprobs >= 0:
            _check_logprobs(output, answer, asked.num_logprobs)
        if self._settings.gives_vectors and finish is FinishReason.LENGTH:
            # Where a prompt may be found in the cache, what all its tokens add up to is not known.
            expected = answer.vector[: 2 if self._config.disable_dynamic_prompt_cache else 1]
            vector = tuple(self._table.vector(index).tolist())
            assert vector[: len(expected)] == expected, "a vector is that of its prompt"
        if asked.scores_prompt and asked.num_output:
            scores = self._table.scores(index)
            prompt = answer.tokens[1 : answer.prompt_length]
            assert scores[:, 0].tolist() == prompt, "each token of the prompt is scored once"
            expected = [score(context) for context in answer.hashes[1 : answer.prompt_length]]
            assert scores[:, 1].view(np.float32).tolist() == expected, "each is scored in its context"

    def _check_early_end(self, asked: Asked) -> None:
        match asked.finish:
            case FinishReason.REFUSED:
                assert self._columns["refusal"][asked.request.index], "who is refused is told why"
                assert not asked.num_output, "what was refused has not run"
            case FinishReason.TIMEOUT:
                assert self.now >= asked.deadline, "what is not late goes on"
            case FinishReason.ERROR:
                assert self._settings.output_pages is not None, "only a lack of pages fails a request"
            case _:
                raise AssertionError("nothing else ends what is wanted")

    def _watch_preemptions(self, scheduler: Scheduler) -> None:
        """Sees to it that the oldest request always goes on, where there are priorities the oldest of the first."""
        rows, make_room = scheduler._running.rows, scheduler._preemption.make_room
        has_priorities = self._config.schedule_policy == "priority"

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
            is_passed_over = request is not oldest and now - oldest.came > self._config.schedule_aging_s
            assert not (is_passed_over and was_passed_over), "who is oldest is not passed over twice"
            was_passed_over = is_passed_over
            admit(request, now)

        waiting.admit = watched


def _check_logprobs(output: np.ndarray, answer: Answer, count: int) -> None:
    for place, words in enumerate(output):
        logprob, top, top_logprobs = answer.logprobs(place, count)
        assert words[1:2].view(np.float32) == logprob, "logprobs lie beside their tokens"
        assert words[2 : 2 + count].tolist() == top, "logprobs lie beside their tokens"
        assert words[2 + count :].view(np.float32).tolist() == top_logprobs, "each beside its token"
