"""A worker without a model, for tests: it knows what a slot must hold, and notices when a plan makes it read another.

A token's keys and values depend on all tokens before it; here they are a hash of these tokens. What is sampled is a
function of that hash, so a request's output does not depend on what else runs, unless the scheduler makes a mistake.
"""

import numpy as np

from lightllm.base.step import LAST_SAMPLED, StepPlan, StepResult

_LONGEST = 1 << 16
_WEIGHTS = np.random.default_rng(1).integers(1, 2**63, size=_LONGEST, dtype=np.uint64) | np.uint64(1)
_EMPTY = -1


def context_hashes(tokens: np.ndarray) -> np.ndarray:
    """Hash of each prefix of `tokens` [n]: [n] uint64."""
    return np.cumsum((tokens.astype(np.uint64) + np.uint64(1)) * _WEIGHTS[: len(tokens)], dtype=np.uint64)


def sample(context_hash: int, vocabulary: int) -> int:
    mixed = (context_hash ^ (context_hash >> 33)) * 0xFF51AFD7ED558CCD % 2**64
    return (mixed >> 20) % vocabulary


def logprobs(token: int, count: int) -> tuple[float, np.ndarray, np.ndarray]:
    """The invented logprob of a token, and `count` likeliest tokens with theirs."""
    return -0.25 * (token % 7), (token + np.arange(count)).astype(np.int32), -0.5 * np.arange(count, dtype=np.float32)


def score(context_hash: int, token: int, count: int) -> tuple[float, list[int], list[float]]:
    """The invented logprob of a prompt's token in its context, and `count` likeliest tokens with theirs."""
    first = sample(context_hash, 1000)
    return -(first + token) / 8, [first + i for i in range(count)], [-float(i) for i in range(count)]


def alone(prompt: list[int], *, max_tokens: int, vocabulary: int, stops: tuple[int, ...] = (), min_tokens: int = 0):
    """What a request generates if nothing goes wrong: the oracle."""
    tokens, output = list(prompt), []
    while len(output) < max_tokens:
        token = sample(int(context_hashes(np.array(tokens))[-1]), vocabulary)
        output.append(token)
        tokens.append(token)
        if token in stops and len(output) > min_tokens:
            break
    return output


class Device:
    """Runs plans in order, as the workers do: table updates first, then all writes, then all reads."""

    def __init__(self, *, pool_tokens: int, rows: int, max_length: int, vocabulary: int):
        self.vocabulary = vocabulary
        self.token = np.full(pool_tokens, _EMPTY, dtype=np.int64)
        self.position = np.full(pool_tokens, _EMPTY, dtype=np.int64)
        self.context = np.zeros(pool_tokens, dtype=np.uint64)
        self.slot_table = np.full((rows, max_length), _EMPTY, dtype=np.int64)
        self.last_sampled = np.full(rows, _EMPTY, dtype=np.int64)
        self.num_logprobs = np.full(rows, -1, dtype=np.int64)
        self.num_steps = self.num_tokens = self.num_samples = 0

    def run(self, plan: StepPlan) -> StepResult:
        self._check_shape(plan)
        self._begin(plan)
        tokens = self._resolve(plan)
        sequences = list(zip(plan.rows.tolist(), plan.starts.tolist(), plan.counts.tolist(), strict=True))
        self._write(sequences, tokens)
        sampled = np.full(len(sequences), -1, dtype=np.int32)
        for i, (row, start, count) in enumerate(sequences):
            context = self._read(row, start + count)
            if plan.samples[i]:
                sampled[i] = self.last_sampled[row] = sample(context, self.vocabulary)
        self.num_steps += 1
        self.num_tokens += len(tokens)
        self.num_samples += int(plan.samples.sum())
        result = self._result(plan, sampled)
        self._score(plan, result)
        return result

    def _score(self, plan: StepPlan, result: StepResult) -> None:
        """The scores are a function of successor and context, which is what the slot of the token before it holds."""
        ends, places = np.cumsum(plan.counts), plan.scored
        assert (np.diff(places) > 0).all(), "a token is scored once"
        sequence = np.searchsorted(ends, places, side="right")
        positions = plan.starts[sequence] + places - (ends - plan.counts)[sequence]
        contexts = self.context[self.slot_table[plan.rows[sequence], positions]]
        known = [
            score(int(context), token, plan.num_score_logprobs)
            for context, token in zip(contexts, plan.successors.tolist(), strict=True)
        ]
        if known:
            result.scores, result.score_top_tokens, result.score_top_logprobs = (
                np.array(part, dtype=kind)
                for part, kind in zip(zip(*known, strict=True), (np.float32, np.int32, np.float32), strict=True)
            )

    def _check_shape(self, plan: StepPlan) -> None:
        singles = plan.counts == 1
        assert (np.diff(singles.astype(int)) <= 0).all(), "sequences of one token come first"
        assert len(np.unique(plan.rows)) == len(plan.rows), "a row is in a plan once"
        assert (plan.counts > 0).all()
        assert plan.counts.sum() == len(plan.tokens)
        assert plan.update_counts.sum() == len(plan.update_slots)
        assert plan.step == self.num_steps + 1

    def _begin(self, plan: StepPlan) -> None:
        stops = 0
        for begin in plan.begins:
            row = int(begin["row"])
            self.slot_table[row] = _EMPTY
            self.last_sampled[row] = _EMPTY
            self.num_logprobs[row] = begin["num_logprobs"]
            stops += int(begin["num_stops"])
        assert stops == len(plan.stop_tokens)
        at = 0
        for row, start, count in zip(plan.update_rows, plan.update_starts, plan.update_counts, strict=True):
            self.slot_table[row, start : start + count] = plan.update_slots[at : at + count]
            at += count

    def _resolve(self, plan: StepPlan) -> np.ndarray:
        tokens, ends = plan.tokens.astype(np.int64), np.cumsum(plan.counts)
        for row, end, count in zip(plan.rows, ends, plan.counts, strict=True):
            if tokens[end - 1] == LAST_SAMPLED:
                assert count == 1
                assert self.last_sampled[row] != _EMPTY, "a row that never sampled has no last token"
                tokens[end - 1] = self.last_sampled[row]
        assert (tokens >= 0).all()
        return tokens

    def _write(self, sequences: list[tuple[int, int, int]], tokens: np.ndarray) -> None:
        """All keys and values of a step are written before any are read, in every layer."""
        slots = np.concatenate([self.slot_table[row, start : start + count] for row, start, count in sequences])
        assert (slots >= 0).all(), "every token that runs has a slot"
        assert len(np.unique(slots)) == len(slots), "two tokens of a step never share a slot"
        self.token[slots] = tokens
        self.position[slots] = np.concatenate([np.arange(start, start + count) for _, start, count in sequences])
        for row, start, count in sequences:
            whole = self.slot_table[row, : start + count]
            self.context[whole[start:]] = context_hashes(self.token[whole])[start:]

    def _read(self, row: int, length: int) -> int:
        slots = self.slot_table[row, :length]
        assert (slots >= 0).all(), "every token of the context has a slot"
        assert (self.position[slots] == np.arange(length)).all(), "a slot of the context was given to another token"
        contexts = context_hashes(self.token[slots])
        assert (self.context[slots] == contexts).all(), "keys and values were computed in another context"
        return int(contexts[-1])

    def _result(self, plan: StepPlan, sampled: np.ndarray) -> StepResult:
        counts = np.where(plan.samples, self.num_logprobs[plan.rows], -1)
        most = int(counts.max(initial=-1))
        chosen = np.zeros(len(sampled) if most >= 0 else 0, dtype=np.float32)
        top = np.zeros((len(chosen), max(most, 0)), dtype=np.int32)
        top_logprobs = np.zeros(top.shape, dtype=np.float32)
        for i in np.flatnonzero(counts >= 0):
            chosen[i], top[i], top_logprobs[i] = logprobs(int(sampled[i]), most)
        return StepResult(plan.step, sampled, chosen, top, top_logprobs, 0.0, True)
