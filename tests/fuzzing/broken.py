"""Schedulers with one mistake each, by which the fuzzer is tested: it must find every one of them soon."""

from collections.abc import Callable
from unittest import mock

import numpy as np

from lightllm.base.request import FinishReason
from lightllm.serving.scheduling import preemption, scheduler
from lightllm.serving.scheduling.flights import Flights
from lightllm.serving.scheduling.intake import Intake
from lightllm.serving.scheduling.output import OutputWriter
from lightllm.serving.scheduling.plan import PlanDraft
from lightllm.serving.scheduling.policies.conservative import Conservative
from lightllm.serving.scheduling.pool import Pool
from lightllm.serving.scheduling.prefix_tree import ROOT, PrefixTree
from lightllm.serving.scheduling.prompt_scores import PromptScores
from lightllm.serving.scheduling.rows import Rows
from lightllm.serving.scheduling.running import Running
from lightllm.serving.scheduling.scheduler import Scheduler
from lightllm.serving.scheduling.waiting import Waiting

Mistake = Callable[[], "mock._patch"]
MISTAKES: dict[str, Mistake] = {}


def _mistake(make: Mistake) -> Mistake:
    MISTAKES[make.__name__] = make
    return make


@_mistake
def results_of_an_earlier_request_count_for_the_row():
    def leave(self: Rows, request) -> None:
        leave_row(self, request)
        self.epoch[:] = 0

    leave_row = Rows.leave
    return mock.patch.object(Rows, "leave", leave)


@_mistake
def the_last_token_of_a_prompt_is_not_computed():
    def find_more(self: Running, row: int) -> np.ndarray:
        rows, request = self.rows, self.rows.requests[row]
        start = int(rows.length[row])
        node, found = self.pool.find(int(rows.node[row]), request.tokens[start:])
        rows.slots[row, start : start + len(found)] = found
        rows.node[row] = node
        if len(found):
            rows.length[row] = rows.in_tree[row] = start + len(found)
        return request.tokens

    return mock.patch.object(Running, "find_more", find_more)


@_mistake
def a_node_grows_that_others_hold_too():
    def add(self: PrefixTree, node: int, tokens, slots) -> int:
        if node != ROOT and not self._children[node]:
            self.num_tokens += len(tokens)
            tokens, slots = np.append(self._tokens[node], tokens), np.append(self._slots[node], slots)
            self._set(node, tokens.astype(np.int32), slots.astype(np.int32))
            return node
        return add_node(self, node, tokens, slots)

    add_node = PrefixTree.add
    return mock.patch.object(PrefixTree, "add", add)


@_mistake
def a_slot_found_twice_is_never_free_again():
    def give_back(self: Pool, node: int, tokens, slots) -> None:
        _, found = self.tree.find(node, tokens)
        num_free = self.slots.num_free + len(found)
        give_back_slots(self, node, tokens, slots)
        self.slots._is_free[slots[: len(found)]] = False
        self.slots.num_free = min(num_free, self.slots.num_free)

    give_back_slots = Pool.give_back
    return mock.patch.object(Pool, "give_back", give_back)


@_mistake
def a_hold_is_released_at_its_end_only():
    def release(self: PrefixTree, node: int) -> None:
        self._uses += 1
        if node != ROOT:
            self._holders[node] -= 1
            if self._holders[node] == 0:
                self.num_unheld += int(self._length[node])
                self._enqueue(node)

    return mock.patch.object(PrefixTree, "release", release)


@_mistake
def a_split_forgets_the_holders():
    def split(self: PrefixTree, node: int, at: int) -> int:
        upper = split_node(self, node, at)
        self._holders[upper] = 0
        return upper

    split_node = PrefixTree._split
    return mock.patch.object(PrefixTree, "_split", split)


@_mistake
def a_preempted_request_forgets_the_token_in_flight():
    return mock.patch.object(Flights, "await_anything", return_value=False)


@_mistake
def preempted_slots_are_not_told_again():
    def forget_slots(self: Rows, row: int) -> None:
        self.length[row] = self.in_tree[row] = 0
        self.node[row] = ROOT

    return mock.patch.object(Rows, "forget_slots", forget_slots)


@_mistake
def the_oldest_gives_way():
    def victim(self: preemption.Preemption, lacking: int):
        rows = self._running.rows
        return rows.requests[rows.taking_part()[0]]

    return mock.patch.object(preemption.Preemption, "_victim", victim)


@_mistake
def nobody_gives_way():
    return mock.patch.object(preemption.Preemption, "make_room", return_value=[])


@_mistake
def who_came_last_is_served_first():
    def head(self: Waiting, now: float):
        return max(self, key=lambda request: request.order, default=None)

    return mock.patch.object(Waiting, "head", head)


@_mistake
def the_peak_is_underestimated():
    def needed(self: Conservative, running: Running, candidate: int, next_tokens: int) -> int:
        return ask(self, running, candidate, next_tokens) // 2

    ask = Conservative.needed
    return mock.patch.object(Conservative, "needed", needed)


@_mistake
def the_oldest_is_passed_over_for_ever():
    return mock.patch.object(Waiting, "_overdue", return_value=None)


@_mistake
def what_is_late_goes_on():
    return mock.patch.object(Scheduler, "expire")


@_mistake
def of_the_samples_of_a_prompt_one_is_counted():
    def why_not(self: Intake, samples, now: float):
        return ask(self, samples[:1], now)

    ask = Intake.why_not
    return mock.patch.object(Intake, "why_not", why_not)


@_mistake
def old_generations_are_believed():
    return mock.patch.object(Scheduler, "_current", lambda self, index, generation: self._requests.get(index))


@_mistake
def what_a_client_took_back_is_read():
    def read_request(table, index, generation, *, order, now):
        return read(table, index, int(table.records["generation"][index]), order=order, now=now)

    read = scheduler.read_request
    return mock.patch.object(scheduler, "read_request", read_request)


@_mistake
def a_dead_clients_queue_is_kept():
    def forget_client(self: Scheduler, client: int) -> None:
        theirs = self._table.client_records(client)
        for request in [request for request in self._requests.values() if request.index in theirs]:
            if request.row >= 0 or request.has_ended:
                self.release(request.index, request.generation)

    return mock.patch.object(Scheduler, "forget_client", forget_client)


@_mistake
def chunks_cost_no_budget():
    def add(self: PlanDraft, chunk, request) -> None:
        self.chunks.append(chunk)
        self.update_slots_left -= chunk.start + len(chunk.tokens) - chunk.told

    return mock.patch.object(PlanDraft, "add", add)


@_mistake
def stop_tokens_stop_before_min_tokens():
    def seat(self: Rows, request) -> int:
        row = seat_request(self, request)
        self.min_tokens[row] = 0
        return row

    seat_request = Rows.seat
    return mock.patch.object(Rows, "seat", seat)


@_mistake
def an_end_is_not_reported():
    def end(self: Scheduler, request, reason: FinishReason) -> None:
        end_request(self, request, reason)
        self._progressed.pop()

    end_request = Scheduler._end
    return mock.patch.object(Scheduler, "_end", end)


@_mistake
def a_stopped_request_ends_once_more():
    def stop(self: Scheduler, index: int, generation: int) -> None:
        request = self._current(index, generation)
        if request is not None:
            self._end(request, FinishReason.STOP)

    return mock.patch.object(Scheduler, "stop", stop)


@_mistake
def pages_of_the_output_are_kept():
    return mock.patch.object(OutputWriter, "close")


@_mistake
def beams_go_on_from_one_another():
    def fork(self: Running, beams, steps):
        return fork_beams(self, beams[::-1], steps)

    fork_beams = Running.fork
    return mock.patch.object(Running, "fork", fork)


@_mistake
def a_vector_is_not_written_down():
    return mock.patch.object(PromptScores, "put", return_value=True)


@_mistake
def a_prompt_is_found_though_all_of_it_must_run():
    def begin(self: Pool, pool_tokens: int, *, sharing: bool) -> None:
        begin_pool(self, pool_tokens, sharing=True)

    begin_pool = Pool.__init__
    return mock.patch.object(Pool, "__init__", begin)


@_mistake
def a_token_too_many_is_generated():
    def seat(self: Rows, request) -> int:
        row = seat_request(self, request)
        self.max_tokens[row] += 1
        self.limit[row] += 1
        return row

    seat_request = Rows.seat
    return mock.patch.object(Rows, "seat", seat)
