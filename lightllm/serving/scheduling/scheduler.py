"""Decides step by step which tokens of which requests run, and where their keys and values lie.

Deterministic: time and the worker are outside. While step n runs, step n + 1 is planned; what step n samples is not
known then, so a request that step n ends may run one wasted token in step n + 1, whose result is ignored. Its slots
can be used again at once, since the workers touch the pool in the order of the plans.
"""

import itertools
import math
import time
from collections.abc import Callable

import numpy as np

from lightllm.base import log
from lightllm.base.config import EngineConfig
from lightllm.base.messages import Progress, Reference, references
from lightllm.base.metrics import Metrics
from lightllm.base.request import FinishReason
from lightllm.base.request_table import RequestTable
from lightllm.base.step import FAILED, StepPlan, StepResult
from lightllm.serving.scheduling import admission, orders, spreading
from lightllm.serving.scheduling.beam_group import BeamGroup, members, written
from lightllm.serving.scheduling.beam_search import Candidates
from lightllm.serving.scheduling.flights import Flights, Landed
from lightllm.serving.scheduling.forecast import Forecast
from lightllm.serving.scheduling.intake import Intake
from lightllm.serving.scheduling.keyed_heap import KeyedHeap
from lightllm.serving.scheduling.length_history import LengthHistory
from lightllm.serving.scheduling.lengths import LengthPredictor
from lightllm.serving.scheduling.output import OutputWriter
from lightllm.serving.scheduling.plan import PlanDraft, StepLimits
from lightllm.serving.scheduling.pool import Pool
from lightllm.serving.scheduling.preemption import Preemption
from lightllm.serving.scheduling.request import Request, read_prompt, read_request
from lightllm.serving.scheduling.running import Running
from lightllm.serving.scheduling.step_budget import StepBudget
from lightllm.serving.scheduling.victims import victims
from lightllm.serving.scheduling.wait_prediction import WaitPrediction
from lightllm.serving.scheduling.waiting import Waiting

_log = log.get(__name__)
_NEVER = 0  # no client's record has this generation


class Scheduler:
    """submit, release, stop and forget_client say what is wanted; plan and digest alternate with the worker's steps."""

    def __init__(
        self,
        config: EngineConfig,
        table: RequestTable,
        *,
        pool_tokens: int,
        max_length: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        predictor: LengthPredictor | None = None,
        ttft_target_s: float | None = None,
        small_tokens: int = 0,
    ):
        """`predictor` stands in for the history of output lengths. With `ttft_target_s` requests are refused that
        would wait longer for their first token. small_tokens: see StepLimits.
        """
        self._table, self._records, self._metrics, self._clock = table, table.records, metrics, clock
        self._pool_tokens, self._max_length = pool_tokens, max_length
        self._limits = StepLimits.of(config, max_length, small_tokens=small_tokens)
        self._predictor = predictor if predictor is not None else LengthHistory(config)
        forecast = Forecast(config, self._limits, self._predictor)
        self._policy = admission.policy(config, pool_tokens=pool_tokens, limits=self._limits, forecast=forecast)
        self._pool = Pool(pool_tokens, sharing=not config.disable_dynamic_prompt_cache)
        order = orders.order(config.schedule_policy, prefix_length=self._prefix_length)
        self._waiting, self._output = Waiting(order, aging_s=config.schedule_aging_s), OutputWriter(table)
        self._wait = WaitPrediction()
        self._intake = Intake(config, self._waiting, self._wait, ttft_target_s=ttft_target_s)
        self._budget = StepBudget(self._limits, target_s=config.itl_target_s)
        self._deadlines: KeyedHeap[Request] = KeyedHeap()
        self._running = Running(self._output, self._pool, self._limits, max_length=max_length)
        self._requests: dict[int, Request] = {}  # by index: all that are not released
        self._flights = Flights(self._running.rows)
        self._preemption = Preemption(
            self._running, self._waiting, self._flights, self._limits,
            victims(config, self._running, self._limits, forecast), by_priority=config.schedule_policy == "priority",
        )  # fmt: skip
        self._opened: list[Reference] = []
        self._progressed: list[bytes] = []
        self._released: list[Reference] = []
        self._num_submitted = self._num_steps = 0
        metrics.set("kv_slots_total", pool_tokens)

    @property
    def num_outstanding(self) -> int:
        """Plans whose results have not been digested."""
        return len(self._flights)

    @property
    def queue(self) -> tuple[int, int, float]:
        """Requests that have not run yet, the tokens of their prompts, and seconds until all of them will, or NaN."""
        return self._waiting.num_new, self._waiting.new_tokens, self._intake.longest_wait

    @property
    def next_deadline(self) -> float:
        """When the time of some request is up, by the clock; infinite: never."""
        request = self._deadlines.head
        return math.inf if request is None else request.deadline

    def submit(self, index: int, generation: int) -> None:
        """As `submit_samples`, for the only sample of a prompt."""
        self.submit_samples([(index, generation)])

    def submit_samples(self, references: list[Reference]) -> None:
        """Queues the samples of a prompt that are in these records, or ends them: all of them if there is no room,
        and any that can never run."""
        samples = [request for reference in references if (request := self._open(*reference)) is not None]
        if not samples:
            return
        if (options := samples[0].beams) is not None:
            group = BeamGroup(samples, options)
            for request in samples:
                request.group = group
        refusal = self._intake.why_not(samples, self._clock())
        for request in [request for request in samples if not request.has_ended]:
            record = self._records[request.index]
            record["refusal"], record["predicted_wait"] = refusal, request.predicted_wait
            if reason := self._why_never(request):
                _log.error("request %d ends: %s", request.index, reason)
                self._end(request, FinishReason.ERROR)
            elif refusal:
                self._metrics.add(f"refused_{refusal.name.lower()}")
                self._end(request, FinishReason.REFUSED)
            elif request.group is None or request is samples[0]:
                self._waiting.add(request)
                if request.deadline < math.inf:
                    self._deadlines.add(request, request.deadline)

    def expire(self) -> None:
        """Ends the requests whose time is up, with what there is."""
        while self.next_deadline <= self._clock():
            request = self._deadlines.head
            assert request is not None, "there is a next deadline"
            self._metrics.add("expired_running" if request.has_started else "expired_waiting")
            self._end(request, FinishReason.TIMEOUT)

    def release(self, index: int, generation: int) -> None:
        """The client is done with the record: ends the request if it has not ended, and forgets it."""
        request = self._current(index, generation)
        if request is None:
            return
        if not request.has_ended:
            self._end(request, FinishReason.ABORT)
        self._records[index]["output_generation"] = _NEVER
        self._output.close(index)
        del self._requests[index]
        self._released.append((index, generation))

    def stop(self, index: int, generation: int) -> None:
        """A stop string was found in the text of this request."""
        request = self._current(index, generation)
        if request is not None and not request.has_ended:
            self._end(request, FinishReason.STOP)

    def forget_client(self, client: int) -> None:
        """Ends and forgets all requests of a client that is gone."""
        theirs = self._table.client_records(client)
        for request in [request for request in self._requests.values() if request.index in theirs]:
            self.release(request.index, request.generation)

    def flush_cache(self) -> int:
        """Forgets all prefixes that no request uses; returns how many tokens these were."""
        return self._pool.flush()

    def plan(self) -> StepPlan | None:
        """The next step, or None if there is nothing to run before a result is digested or a request submitted."""
        self.expire()
        tokens = self._budget.tokens(len(self._running.rows.decoding()))
        is_small = spreading.is_better(self._running.rows, self._waiting, self._limits)
        if is_small:
            tokens = min(tokens, self._limits.small_tokens)
        preempted = self._preemption.make_room(tokens)
        for request in preempted:
            self._note_preemption(request)
        draft = PlanDraft(self._limits, tokens=tokens)
        prompts_alone = self._limits.prompts_first and not is_small and self._prompts_fill_a_step()
        if not prompts_alone:
            self._running.run_decodes(draft)
        all_run = all(self._running.run_chunk(int(row), draft) for row in self._running.rows.prefilling())
        if all_run and not preempted:
            self._admit(draft)
        if prompts_alone and not draft.chunks:
            self._running.run_decodes(draft)  # nobody could be let in
        self._wait.note_plan(self._clock(), has_backlog=self._waiting.num_new > 0)
        self._show_state()
        if not len(draft.decodes) and not draft.chunks:
            return None
        self._num_steps += 1
        plan = draft.finish(self._num_steps, self._running.rows)
        self._flights.add(plan)
        decodes = len(draft.decodes)
        self._budget.note_plan(self._clock(), prompt_tokens=len(plan.tokens) - decodes, decodes=decodes)
        self._metrics.add("steps")
        self._metrics.add("tokens_computed", len(plan.tokens))
        return plan

    def digest(self, result: StepResult, *, on_written: Callable[[], None] = lambda: None) -> None:
        """Takes in what the oldest outstanding plan has sampled.

        `on_written` is called as soon as `drain` has it: before requests that have ended leave, which takes a while.
        """
        landed = self._flights.land(result)
        self._budget.note_result(self._clock())
        rows, positions, seated = self._running.rows, landed.positions, landed.rows
        if landed.scores:
            self._keep_scores(landed, result)
            goes_on = [rows.requests[row] is not None for row in seated.tolist()]
            positions, seated = positions[goes_on], seated[goes_on]
        positions, seated = self._end_failed(result, positions, seated)
        if (is_beam := rows.is_beam[seated]).any():
            self._hear_of_beams(positions[is_beam], seated[is_beam], result)
            positions, seated = positions[~is_beam], seated[~is_beam]
        indexes = rows.index[seated]
        # Before min_tokens no token stops a request, unless its grammar allows no other.
        may_stop = (self._output.num_tokens(indexes) >= rows.min_tokens[seated]) | rows.has_grammar[seated]
        is_stopped = may_stop & rows.are_stops(seated, result.tokens[positions])
        is_written = self._output.append(indexes, positions, result)
        num_tokens = self._output.num_tokens(indexes)
        is_longest = num_tokens >= rows.max_tokens[seated]
        if result.vectors.size:
            for at in np.flatnonzero(is_written):
                is_written[at] = self._output.scores.put(int(indexes[at]), result.vectors[positions[at]])
        if len(seated):
            self._progressed.append(references(indexes, rows.generation[seated]))
        self._metrics.add("generated_tokens", int(np.count_nonzero(is_written)))
        ended = self._publish_ends(seated, is_stopped=is_stopped, is_longest=is_longest, is_written=is_written)
        on_written()
        for row in seated[num_tokens == 1]:
            self._note_first_token(self._request_of(int(row)))
        for request, reason in ended:
            self._let_go(request, reason)
        self._preemption.queue_again()

    def _publish_ends(
        self, seated: np.ndarray, *, is_stopped: np.ndarray, is_longest: np.ndarray, is_written: np.ndarray
    ) -> list[tuple[Request, FinishReason]]:
        """Publishes which of the requests in these rows [n] end: it was the last token, or there is no page for it."""
        ended: list[tuple[Request, FinishReason]] = []
        for at in np.flatnonzero(is_stopped | is_longest | ~is_written):
            reason = FinishReason.STOP if is_stopped[at] else FinishReason.LENGTH
            ended.append((self._request_of(int(seated[at])), reason if is_written[at] else FinishReason.ERROR))
            self._publish_end(*ended[-1])
        return ended

    def _hear_of_beams(self, positions: np.ndarray, seated: np.ndarray, result: StepResult) -> None:
        """Takes in what may follow beams; those of whose group all is known go on."""
        for position, row in zip(positions.tolist(), seated.tolist(), strict=True):
            beam = self._request_of(row)
            assert beam.group is not None, "a beam has a group"
            count, group = beam.group.num_candidates, beam.group
            likeliest = Candidates(result.top_tokens[position, :count], result.top_logprobs[position, :count])
            if group.hear(beam, likeliest):
                self._advance_beams(group)

    def _advance_beams(self, group: BeamGroup) -> None:
        self._metrics.add("generated_tokens", len(group.beams))
        if group.search.num_tokens == 0:
            self._note_first_token(group.leader)
        if steps := group.next_round():
            group.beams = self._running.fork(group.beams, steps)
            return
        self._dismiss(group)
        answers = group.search.best(len(group.samples))
        for sample, answer in itertools.zip_longest(group.samples, answers):
            reason = FinishReason.ERROR
            if answer is not None and self._output.append_all(sample.index, written(answer, sample.num_logprobs)):
                reason = FinishReason.STOP if group.search.ends(answer) else FinishReason.LENGTH
            self._end_one(sample, reason)

    def _keep_scores(self, landed: Landed, result: StepResult) -> None:
        """Writes down how likely tokens of prompts were. Ends requests for which there is no page to write on."""
        for row, which in landed.scores:
            request = self._request_of(row)
            assert request.tokens is not None, "what runs knows its tokens"
            first = int(self._records["num_scores"][request.index]) + 1
            tokens = request.tokens[first : first + which.stop - which.start]
            wanted = request.num_prompt_logprobs
            if not self._output.scores.append(request.index, tokens, result, which, num_logprobs=wanted):
                self._end(request, FinishReason.ERROR)

    def drain(self) -> Progress | None:
        """What the detokenizer has to be told since the last call, if anything: what came, then what progressed or
        ended, and after that what was released. A request may be named more than once."""
        if not self._opened and not self._progressed and not self._released:
            return None
        opened, released = (np.array(some, dtype=np.uint32).tobytes() for some in (self._opened, self._released))
        message = Progress(opened=opened, progressed=b"".join(self._progressed), released=released)
        self._opened, self._progressed, self._released = [], [], []
        return message

    def _end_failed(
        self, result: StepResult, positions: np.ndarray, seated: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ends the requests for which no token could be sampled; the others are left."""
        has_failed = result.tokens[positions] == FAILED
        if not has_failed.any():
            return positions, seated
        for row in seated[has_failed]:
            self._end(self._request_of(int(row)), FinishReason.GRAMMAR)
        return positions[~has_failed], seated[~has_failed]

    def _note_preemption(self, request: Request) -> None:
        self._records[request.index]["preemptions"] += 1
        self._metrics.add("preemptions")
        self._policy.note_preemption()

    def _prompts_fill_a_step(self) -> bool:
        """Whether the known tokens of those who prefill, and of as many who wait as there are rows, fill a step."""
        rows, waiting = self._running.rows, self._waiting
        prefilling = rows.prefilling()
        pending = int((rows.goal[prefilling] - rows.length[prefilling]).sum())
        if waiting.num_new:
            pending += waiting.new_tokens * min(rows.num_free, waiting.num_new) // waiting.num_new
        return pending >= self._limits.tokens

    def _admit(self, draft: PlanDraft) -> None:
        """Lets waiting requests in, in the queue's order, while the policy allows and the step has room."""
        rows = self._running.rows
        while draft.tokens_left > 0 and rows.num_free and (request := self._next()) is not None:
            together = members(request)
            if len(together) > rows.num_free:
                return
            for member in together:
                self._running.seat(member)
            first = together[0].row
            next_tokens = self._running.room_for(first, draft)
            # Alone it fits: `why_not_alone` was asked when it was submitted.
            is_alone = len(self._running) == len(together)
            needed = request.work if is_alone else self._policy.needed(self._running, first, next_tokens)
            if not next_tokens or (needed > self._policy.allowed and not is_alone):
                for member in together:
                    self._running.leave(member)
                return
            self._waiting.admit(request, self._clock())
            self._note_start(request, cached=int(rows.length[first]))
            self._metrics.set("kv_slots_predicted_peak", needed)
            for member in together:
                self._running.run_chunk(member.row, draft)

    def _next(self) -> Request | None:
        """Who of the waiting requests goes next, its tokens read."""
        while (request := self._waiting.head(self._clock())) is not None:
            if request.tokens is None:
                request.tokens = read_prompt(self._table, request)
            if request.tokens is not None:
                return request
            self._end(request, FinishReason.ABORT)  # its client has taken the record back, which we are about to hear
        return None

    def _open(self, index: int, generation: int) -> Request | None:
        """Begins a request's life here. None if its client has taken it back."""
        if index in self._requests:
            self.release(index, self._requests[index].generation)
        request = read_request(self._table, index, generation, order=self._num_submitted, now=self._clock())
        if request is None:
            return None
        self._num_submitted += 1
        self._requests[index] = request
        request.expected_tokens = self._predictor.expected_output(request)
        record = self._records[index]
        self._output.open(request.index, num_logprobs=request.num_logprobs)
        record["cached_tokens"] = record["preemptions"] = 0
        record["finish_reason"], record["started"] = FinishReason.NONE, 0.0
        record["output_generation"] = request.generation
        self._opened.append((index, generation))
        return request

    def _prefix_length(self, request: Request) -> int:
        """How many tokens of a waiting request's prompt the tree has."""
        tokens = request.tokens if request.tokens is not None else read_prompt(self._table, request)
        return 0 if tokens is None else self._pool.tree.count(self._pool.root(request.salt), tokens)

    def _note_start(self, request: Request, *, cached: int) -> None:
        if request.has_started:
            return
        request.has_started = True
        record = self._records[request.index]
        record["cached_tokens"], record["started"] = cached, self._clock()
        self._wait.note_admission(request.work)
        self._metrics.observe("request_queue_duration", self._clock() - request.came)
        self._metrics.add("prompt_tokens", request.prompt_length)
        self._metrics.add("prompt_tokens_cached", cached)

    def _learn(self, request: Request, num_output: int) -> None:
        self._predictor.observe(request, num_output)
        self._policy.note_end()
        self._metrics.set("length_history_size", self._predictor.num_observed)
        self._metrics.add("output_tokens_expected", request.expected_tokens)
        self._metrics.add("output_tokens_ended", num_output)

    def _note_first_token(self, request: Request) -> None:
        self._wait.note_first_token(predicted=request.predicted_wait, actual=self._clock() - request.came)

    def _request_of(self, row: int) -> Request:
        request = self._running.rows.requests[row]
        assert request is not None, "results of a row without a request are ignored"
        return request

    def _end(self, request: Request, reason: FinishReason) -> None:
        """With one sample of a beam search all of them end that have not, and the beams leave."""
        if request.group is None:
            self._end_one(request, reason)
            return
        self._dismiss(request.group)
        for sample in request.group.samples:
            if not sample.has_ended:
                self._end_one(sample, reason)

    def _dismiss(self, group: BeamGroup) -> None:
        """The beams leave."""
        for beam in group.beams:
            beam.has_ended = True
            if beam.row >= 0:
                self._running.leave(beam)

    def _end_one(self, request: Request, reason: FinishReason) -> None:
        self._publish_end(request, reason)
        self._progressed.append(references(np.array([request.index]), np.array([request.generation])))
        self._let_go(request, reason)

    def _publish_end(self, request: Request, reason: FinishReason) -> None:
        request.has_ended = True
        self._records[request.index]["finish_reason"] = reason

    def _let_go(self, request: Request, reason: FinishReason) -> None:
        """A request that has ended gives up its row, or its place in the queue; what it teaches is learned."""
        if request.row >= 0:
            self._running.leave(request)
        else:
            self._waiting.discard(request)
        if reason in (FinishReason.STOP, FinishReason.LENGTH):
            self._learn(request, int(self._records[request.index]["num_output"]))
        self._deadlines.discard(request)
        if request.has_started:
            self._wait.note_end(request.work)
            self._waiting.end(request, int(self._records[request.index]["num_output"]))
        request.tokens = None

    def _current(self, index: int, generation: int) -> Request | None:
        request = self._requests.get(index)
        return request if request is not None and request.generation == generation else None

    def _why_never(self, request: Request) -> str | None:
        if len(request.stop_tokens) > self._limits.stop_tokens:
            return f"{len(request.stop_tokens)} stop tokens, at most {self._limits.stop_tokens} are allowed"
        if len(request.words) > self._limits.words:
            return f"{len(request.words)} words about tokens, at most {self._limits.words} are allowed"
        beams, pool_tokens = request.beams.width if request.beams else 1, self._pool_tokens
        if beams > self._limits.rows:
            return f"{beams} beams, at most {self._limits.rows} requests can run"
        return admission.why_not_alone(
            request.prompt_length, request.max_tokens, pool_tokens=pool_tokens, max_length=self._max_length, beams=beams
        )

    def _show_state(self) -> None:
        self._metrics.set("queue_size", len(self._waiting))
        self._metrics.set("queue_tokens", self._waiting.new_tokens)
        self._metrics.set("batch_current_size", len(self._running))
        self._metrics.set("kv_slots_used", self._pool.num_used)
        self._metrics.set("kv_slots_cached", self._pool.tree.num_unheld)
        if not len(self._running):
            self._metrics.set("kv_slots_predicted_peak", 0)
