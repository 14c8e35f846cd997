"""Answers orders for masks: follows each answer through its grammar and writes what it allows next.

What is known of an answer can be lost, by a restart or when its request is preempted for long: then it is followed
again from its first token, as the request table has it.
"""

from dataclasses import dataclass

import numpy as np

from lightllm.base.masks import UNKNOWN, MaskMemory
from lightllm.base.messages import Reference
from lightllm.base.request_table import RequestTable
from lightllm.serving.grammar.engine import Matcher
from lightllm.serving.grammar.library import Library, Outcome, Refusal

_FEWEST_SWEPT = 64


@dataclass(slots=True)
class _Followed:
    """An answer. `position`: tokens of it that the matcher has consumed."""

    matcher: Matcher | None = None  # None: the grammar is still being compiled
    position: int = 0
    has_failed: bool = False

    def take(self, outcome: Outcome) -> None:
        if isinstance(outcome, Refusal):
            self.has_failed = True
        else:
            self.matcher = outcome.new_matcher()

    def consume(self, tokens: list[int]) -> None:
        assert self.matcher is not None, "its grammar is there"
        for token in tokens:
            self.has_failed = self.has_failed or not self.matcher.consume(token)
        self.position += len(tokens)


@dataclass(frozen=True, slots=True)
class _Order:
    line: int
    index: int
    generation: int
    position: int
    token: int
    serial: int

    @property
    def reference(self) -> Reference:
        return self.index, self.generation


class MaskMaker:
    """Not thread-safe."""

    def __init__(self, table: RequestTable, memory: MaskMemory, library: Library):
        self._table, self._memory, self._library = table, memory, library
        self._followed: dict[Reference, _Followed] = {}
        self._due: dict[int, _Order] = {}  # by line
        self._sweep_at = _FEWEST_SWEPT

    @property
    def is_waiting(self) -> bool:
        """Whether orders could not be answered yet, for want of a compiled grammar or of tokens."""
        return bool(self._due)

    def order(self, orders: np.ndarray) -> None:
        """orders [n] of base.masks.ORDER; a later order for the same line takes an earlier one's place."""
        if len(self._followed) >= self._sweep_at:
            self._forget_ended()
        for order in [_Order(*values) for values in orders.tolist()]:
            self._due[order.line] = order
            followed = self._followed.get(order.reference)
            if followed is None or followed.position > order.position:
                self._follow(order)

    def make(self) -> int:
        """Answers what can be answered; returns how many orders."""
        batch: list[tuple[_Order, Matcher]] = []
        failed: list[_Order] = []
        for order in list(self._due.values()):
            followed = self._followed[order.reference]
            if not followed.has_failed and not self._bring_forward(followed, order):
                continue
            del self._due[order.line]
            if followed.has_failed or followed.matcher is None:
                failed.append(order)
            else:
                batch.append((order, followed.matcher))
        if batch:
            failed += self._fill(batch)
        answers = self._memory.answers
        for order in failed:
            answers[order.line] = -order.serial
        return len(batch) + len(failed)

    def _fill(self, batch: list[tuple[_Order, Matcher]]) -> list[_Order]:
        """Returns those that came to nothing."""
        engine = self._library.engine
        assert engine is not None, "it has compiled their grammars"
        orders = [order for order, _ in batch]
        filled = engine.fill([matcher for _, matcher in batch], [order.line for order in orders], self._memory.masks)
        done = [order for order, is_there in zip(orders, filled, strict=True) if is_there]
        # Last: the answer publishes the mask.
        self._memory.answers[[order.line for order in done]] = [order.serial for order in done]
        return [order for order, is_there in zip(orders, filled, strict=True) if not is_there]

    def _follow(self, order: _Order) -> None:
        """Begins to follow an answer from its first token."""
        followed = self._followed[order.reference] = _Followed()
        source = self._table.grammar(order.index, order.generation)
        if source is None:
            followed.has_failed = True  # its client has taken it back: nobody waits for the mask
        else:
            self._library.want(source, followed.take)

    def _bring_forward(self, followed: _Followed, order: _Order) -> bool:
        """Consumes tokens up to the order's position. False: some are not known yet, or the grammar is not."""
        if followed.matcher is None:
            return False
        last = [] if order.token == UNKNOWN else [order.token]
        missing = order.position - len(last) - followed.position
        if missing > 0:
            if not self._has_tokens(order, order.position - len(last)):
                followed.has_failed = self._has_ended(order.index, order.generation)
                return followed.has_failed
            known = self._table.output(order.index, followed.position, order.position - len(last))
            followed.consume(known[:, 0].tolist())
        if missing >= 0:
            followed.consume(last)
        return True

    def _has_tokens(self, order: _Order, count: int) -> bool:
        record = self._table.records[order.index]
        return bool(record["output_generation"] == order.generation and record["num_output"] >= count)

    def _has_ended(self, index: int, generation: int) -> bool:
        """Whether the request gets no more tokens."""
        record = self._table.records[index]
        is_over = record["output_generation"] == generation and record["finish_reason"]
        return bool(is_over or record["generation"] != generation)

    def _forget_ended(self) -> None:
        """All but those for which somebody still waits: a step may run once more for a request that has ended."""
        awaited = {order.reference for order in self._due.values()}
        for reference in list(self._followed):
            if reference not in awaited and self._has_ended(*reference):
                del self._followed[reference]
        self._sweep_at = max(_FEWEST_SWEPT, 2 * len(self._followed))
