"""What grammars allow the rows to sample next: ordered as soon as the token before is known, waited for by the sampler.

Between an order and its use the device computes the forward pass.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lightllm.base.masks import ORDER, UNKNOWN, WORD_BITS, MaskMemory
from lightllm.base.metrics import Metrics
from lightllm.base.step import FAILED, StepPlan, StepResult
from lightllm.compute.sampling.allowed import Allowed


class MaskMakers(Protocol):
    """The other side: who makes masks, somewhere else."""

    def send(self, orders: np.ndarray) -> None:
        """orders [n] of ORDER."""
        ...

    def wait(self, seconds: float) -> bool:
        """Waits for news at most so long. True: what was ordered is lost, and has to be ordered again."""
        ...


@dataclass(frozen=True, slots=True)
class _Use:
    """Masks that a step has used: by which sequences of its plan, in which rows, ordered under which numbers."""

    sequences: np.ndarray
    rows: np.ndarray
    serials: np.ndarray
    masks: np.ndarray
    has_failed: np.ndarray  # there was no mask


class GrammarMasks:
    """Kept by the rank that samples."""

    def __init__(
        self,
        rows: int,
        memory: MaskMemory,
        makers: MaskMakers,
        *,
        timeout_s: float,
        metrics: Metrics,
        catch_up: Callable[[], None],
    ):
        """catch_up: calls `note` for all steps launched so far, whose tokens decide what comes next."""
        self._memory, self._makers, self._metrics = memory, makers, metrics
        self._timeout_s, self._catch_up = timeout_s, catch_up
        self._has = np.zeros(rows, np.bool_)
        self._index, self._generation = np.zeros(rows, np.int32), np.zeros(rows, np.uint32)
        self._position = np.zeros(rows, np.int32)  # output tokens that are known
        self._serials = np.zeros(rows, np.int64)  # of the latest orders
        self._num_orders = 0
        self._uses: dict[int, _Use] = {}  # by step

    def begin(self, begins: np.ndarray) -> None:
        """Rows that begin, see StepPlan: the masks of their first tokens are ordered."""
        self._has[begins["row"]] = begins["has_grammar"]
        begins = begins[begins["has_grammar"]]
        rows = begins["row"]
        self._index[rows], self._generation[rows] = begins["index"], begins["generation"]
        self._position[rows] = begins["num_output"]
        self._order(rows, np.full(len(rows), UNKNOWN, np.int32))

    def rule_any(self, rows: np.ndarray) -> bool:
        """Whether any of these rows may not sample just anything."""
        return bool(self._has[rows].any())

    def of(self, plan: StepPlan, which: np.ndarray) -> Allowed | None:
        """What the sequences `which` of a plan may sample, None if all of them anything. Waits if need be."""
        rows = plan.rows[which]
        having = np.flatnonzero(self._has[rows])
        if not len(having):
            return None
        self._catch_up()
        rows = rows[having]
        self._wait(rows)
        has_failed = self._memory.answers[rows] != self._serials[rows]
        masks = self._memory.masks[rows]
        masks[has_failed] = -1
        self._metrics.add("masks_missing", int(np.count_nonzero(has_failed)))
        self._uses[plan.step] = _Use(which[having], rows, self._serials[rows], masks, has_failed)
        return Allowed(having, masks)

    def note(self, result: StepResult) -> None:
        """Orders what comes after the tokens of a result. Those that had no mask are FAILED, and those that their mask
        does not allow: other parameters of the request forbade all that it does."""
        use = self._uses.pop(result.step, None)
        if use is None:
            return
        tokens = result.tokens[use.sequences]
        words = use.masks[np.arange(len(tokens)), tokens // WORD_BITS]
        has_failed = use.has_failed | ((words >> (tokens % WORD_BITS)) & 1 == 0)
        result.tokens[use.sequences[has_failed]] = FAILED
        # A row that has changed hands since waits for its new request's mask.
        goes_on = (self._serials[use.rows] == use.serials) & ~has_failed
        rows = use.rows[goes_on]
        self._position[rows] += 1
        self._order(rows, result.tokens[use.sequences[goes_on]])

    def _order(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        if not len(rows):
            return
        orders = np.zeros(len(rows), ORDER)
        orders["line"], orders["token"] = rows, tokens
        orders["index"], orders["generation"] = self._index[rows], self._generation[rows]
        orders["position"] = self._position[rows]
        orders["serial"] = self._serials[rows] = self._num_orders + 1 + np.arange(len(rows))
        self._num_orders += len(rows)
        self._makers.send(orders)

    def _wait(self, rows: np.ndarray) -> None:
        started = time.perf_counter()
        while not self._are_answered(rows) and (left := started + self._timeout_s - time.perf_counter()) > 0:
            if self._makers.wait(left):
                lost = np.flatnonzero(self._has & (np.abs(self._memory.answers[: len(self._has)]) != self._serials))
                self._order(lost, np.full(len(lost), UNKNOWN, np.int32))
        self._metrics.add("mask_waits")
        self._metrics.add("mask_wait_seconds", time.perf_counter() - started)

    def _are_answered(self, rows: np.ndarray) -> bool:
        return bool((np.abs(self._memory.answers[rows]) == self._serials[rows]).all())
