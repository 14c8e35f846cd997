"""A worker without a model: it knows what each slot must hold, and checks every plan before it answers."""

import numpy as np

from lightllm.base.step import LAST_SAMPLED, StepPlan, StepResult
from lightllm.serving.scheduling.prefix_tree import PrefixTree
from tests.fuzzing.answers import Answer, BeamAnswer, following, part, score
from tests.serving.scheduling.device import logprobs

_NOTHING = -1


class Worker:
    """Runs plans in their order: changes of the slot table first, then all writes to slots, then all reads.

    Requests are told apart by their seeds: `answers` knows the answer of each.
    """

    def __init__(self, answers: dict[int, Answer], *, pool_tokens: int, rows: int, gives_vectors: bool = False):
        self._answers, self._gives_vectors = answers, gives_vectors
        self._held = [_NOTHING] * pool_tokens  # hash of the tokens up to the one whose keys and values a slot holds
        self._lines: list[list[int]] = [[] for _ in range(rows)]  # the slot table
        self._of_row: list[Answer | None] = [None] * rows
        self._last: list[tuple[int, int]] = [(_NOTHING, _NOTHING)] * rows  # position and token of what it sampled last
        self._num_logprobs = [-1] * rows
        self._pooled = [0] * rows  # what the tokens add up to that ran since the one at position 0
        self._sampled_after: dict[Answer, int] = {}  # how many tokens, for the last token of each
        self.num_steps = 0

    def run(self, plan: StepPlan) -> StepResult:
        """Raises AssertionError if the plan makes a sequence read or write what it must not."""
        self.num_steps += 1
        assert plan.step == self.num_steps, "steps are numbered in order"
        self._begin(plan)
        self._change_lines(plan)
        rows, starts, counts = plan.rows.tolist(), plan.starts.tolist(), plan.counts.tolist()
        self._check_order(rows, counts)
        self._write(rows, starts, counts, plan.tokens.tolist())
        sampled = [
            self._read(row, start + count, samples=samples)
            for row, start, count, samples in zip(rows, starts, counts, plan.samples.tolist(), strict=True)
        ]
        return self._result(plan, sampled)

    def check_tree(self, tree: PrefixTree) -> None:
        """Raises AssertionError unless each slot of the tree holds what the tree says."""
        reached = [(child, 0) for root in tree._roots.values() for child in tree._children[root].values()]
        while reached:
            node, context = reached.pop()
            for token, slot in zip(tree._tokens[node].tolist(), tree._slots[node].tolist(), strict=True):
                context = following(context, token)
                assert self._held[slot] == context, "the tree offers the keys and values of other tokens"
            reached += [(child, context) for child in tree._children[node].values()]

    def _begin(self, plan: StepPlan) -> None:
        at, stop_tokens = 0, plan.stop_tokens.tolist()
        for begin in plan.begins:
            row, answer = int(begin["row"]), self._answers[int(begin["seed"])]
            assert begin["prompt_length"] == answer.prompt_length, "the row begins with its request's parameters"
            assert begin["min_tokens"] == answer.min_tokens, "the row begins with its request's parameters"
            stops = stop_tokens[at : at + int(begin["num_stops"])]
            assert stops == (sorted(answer.stops) if answer.min_tokens else []), "stop tokens are told where needed"
            at += len(stops)
            self._lines[row], self._of_row[row], self._last[row] = [], answer, (_NOTHING, _NOTHING)
            self._num_logprobs[row] = int(begin["num_logprobs"])
        assert at == len(stop_tokens), "every stop token is some row's"

    def _change_lines(self, plan: StepPlan) -> None:
        at, slots = 0, plan.update_slots.tolist()
        changes = zip(plan.update_rows.tolist(), plan.update_starts.tolist(), plan.update_counts.tolist(), strict=True)
        for row, start, count in changes:
            line = self._lines[row]
            assert start <= len(line), "a line of the slot table has no gaps"
            line[start : start + count] = slots[at : at + count]
            at += count
        assert at == len(slots), "every slot is some row's"

    def _check_order(self, rows: list[int], counts: list[int]) -> None:
        assert len(set(rows)) == len(rows), "a row is in a plan once"
        singles = counts.count(1)
        assert all(count == 1 for count in counts[:singles]), "sequences of one token come first"
        assert min(counts) >= 1, "a sequence runs tokens"

    def _write(self, rows: list[int], starts: list[int], counts: list[int], tokens: list[int]) -> None:
        ends = np.cumsum(counts).tolist()
        assert ends[-1] == len(tokens), "every token is some row's"
        written = []
        # A row may go on from what another writes in the same step, which then begins earlier.
        for start, row, count, end in sorted(zip(starts, rows, counts, ends, strict=True)):
            answer, line = self._of_row[row], self._lines[row]
            assert answer is not None, "a row begins before it runs"
            assert len(line) >= start + count, "every token that runs has a slot"
            contexts = self._contexts(row, answer, start, tokens[end - count : end])
            for position, context in enumerate(contexts, start):
                self._held[line[position]] = context
                written.append(line[position])
            self._pooled[row] = (self._pooled[row] if start else 0) + sum(map(part, contexts))
        assert len(set(written)) == len(written), "two tokens of a step never share a slot"

    def _contexts(self, row: int, answer: Answer, start: int, run: list[int]) -> list[int]:
        """The hashes of the tokens up to each one that a row runs, from position `start` on."""
        if isinstance(answer, BeamAnswer):
            contexts, context = [], self._held[self._lines[row][start - 1]] if start else 0
            for token in run:
                context = following(context, token)
                assert context in answer.search.before, "a beam runs tokens that the search has chosen"
                contexts.append(context)
            return contexts
        answer.reach(start + len(run))
        if run == [LAST_SAMPLED]:
            position, token = self._last[row]
            assert position == start, "a row that runs what it sampled last has sampled that"
            run = [token]
        assert run == answer.tokens[start : start + len(run)], "a row runs its request's tokens"
        return answer.hashes[start : start + len(run)]

    def _read(self, row: int, length: int, *, samples: bool) -> int:
        """What the row samples after its first `length` tokens."""
        answer = self._of_row[row]
        assert answer is not None, "a row begins before it runs"
        held = [self._held[slot] for slot in self._lines[row][:length]]
        if isinstance(answer, BeamAnswer):
            shorter = [answer.search.before.get(context) for context in held]
            assert shorter == [0, *held[:-1]], "slots of the context hold the keys and values of other tokens"
            return int(answer.search.likeliest(held[-1], 1).tokens[0]) if samples else _NOTHING
        assert held == answer.hashes[:length], "slots of the context hold the keys and values of other tokens"
        if not samples:
            return _NOTHING
        assert length > self._sampled_after.get(answer, 0), "no token is sampled twice"
        self._sampled_after[answer] = length
        answer.reach(length + 1)
        self._last[row] = length, answer.tokens[length]
        return answer.tokens[length]

    def _result(self, plan: StepPlan, sampled: list[int]) -> StepResult:
        counts = [
            self._num_logprobs[row] if token >= 0 else -1
            for row, token in zip(plan.rows.tolist(), sampled, strict=True)
        ]
        most = max(counts)
        chosen = np.zeros(len(sampled) if most >= 0 else 0, dtype=np.float32)
        top = np.zeros((len(chosen), max(most, 0)), dtype=np.int32)
        top_logprobs = np.zeros(top.shape, dtype=np.float32)
        for i, count in enumerate(counts):
            answer = self._of_row[plan.rows[i]]
            if count >= 0 and isinstance(answer, BeamAnswer):
                context = self._held[self._lines[plan.rows[i]][plan.starts[i] + plan.counts[i] - 1]]
                top[i, :count], top_logprobs[i, :count] = answer.search.likeliest(context, count)
            elif count >= 0:
                chosen[i], top[i], top_logprobs[i] = logprobs(sampled[i], most)
        result = StepResult(plan.step, np.array(sampled, dtype=np.int32), chosen, top, top_logprobs, 0.0, True)
        if self._gives_vectors and max(sampled) >= 0:
            result.vectors = self._vectors(plan)
        self._score(plan, result)
        return result

    def _vectors(self, plan: StepPlan) -> np.ndarray:
        """[S, 2]: what stands for the last token, and for all that ran."""
        ends = [self._lines[row][end - 1] for row, end in zip(plan.rows, plan.starts + plan.counts, strict=True)]
        pooled = [self._pooled[row] for row in plan.rows]
        return np.array([[score(self._held[slot]) for slot in ends], pooled], dtype=np.float32).T

    def _score(self, plan: StepPlan, result: StepResult) -> None:
        ends = np.cumsum(plan.counts)
        sequence = np.searchsorted(ends, plan.scored, side="right")
        positions = plan.starts[sequence] + plan.scored - (ends - plan.counts)[sequence]
        contexts = [
            self._held[self._lines[row][position]]
            for row, position in zip(plan.rows[sequence].tolist(), positions.tolist(), strict=True)
        ]
        scores = [score(following(*each)) for each in zip(contexts, plan.successors.tolist(), strict=True)]
        result.scores = np.array(scores, dtype=np.float32)
        result.score_top_tokens = np.zeros((len(scores), plan.num_score_logprobs), dtype=np.int32)
        result.score_top_logprobs = np.zeros((len(scores), plan.num_score_logprobs), dtype=np.float32)
