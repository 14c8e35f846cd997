"""What running requests hold and are about to hold, every shared token once, and the peak that follows from it.

Tokens are shared in two ways: those in the prefix tree by all requests whose path they lie on, and those that are not
computed yet by all samples of one prompt, which find them in the tree as soon as one of them has run them.
"""

from dataclasses import dataclass

import numpy as np

from lightllm.serving.scheduling.peak_memory import Counts, peaks
from lightllm.serving.scheduling.plan import StepLimits
from lightllm.serving.scheduling.rows import Rows
from lightllm.serving.scheduling.running import Running


@dataclass(frozen=True, slots=True)
class Shares:
    """`tokens` [k]: runs of tokens that several of n requests hold together; `holders` lists who, run after run.

    The holders of run i are holders[starts[i] : starts[i + 1]], indexes below n.
    """

    tokens: Counts
    starts: Counts
    holders: Counts

    def outlive(self, lifetimes: Counts) -> Counts:
        """How long each run is held, [samples, k], if its holders live so long [samples, n]: as long as the last."""
        if not len(self.tokens):
            return lifetimes[:, :0]
        return np.maximum.reduceat(lifetimes[:, self.holders], self.starts, axis=1)


@dataclass(frozen=True, slots=True)
class Holdings:
    """n requests, oldest first. All [n] but `shares`."""

    rows: Counts
    length: Counts  # slots of its own and in the tree, this step's included
    held: Counts  # slots that it alone holds
    pending: Counts  # known tokens that it has yet to run and shares with nobody
    quickest: Counts  # steps it needs for these at least
    slowest: Counts  # steps it needs for all tokens that it has yet to run, at most
    pace: Counts  # steps for each token that it generates
    shares: tuple[Shares, ...]

    @classmethod
    def of(cls, running: Running, limits: StepLimits, *, candidate: int = -1, next_tokens: int = 0) -> "Holdings":
        """Of all that runs, where the row `candidate` runs `next_tokens` more in the step that is being planned."""
        rows, taking_part = running.rows, running.rows.taking_part()
        length = rows.length[taking_part] + next_tokens * (taking_part == candidate)
        own, in_tree = shared_in_tree(running, taking_part)
        alone, to_come = shared_to_come(rows, taking_part, length)
        pending = np.maximum(rows.goal[taking_part] - length, 0)
        slowest = slowest_prefill(pending, _by_the_oldest(alone, to_come), limits)
        held = length - rows.in_tree[taking_part] + own
        quickest, pace = quickest_prefill(alone, limits), 1 + rows.is_beam[taking_part]  # beams wait for one another
        return cls(taking_part, length, held, alone, quickest, slowest, pace, (in_tree, *to_come))

    def growth(self, rows: Rows, output: Counts) -> Counts:
        """Slots that each request takes after its known tokens if it generates output[s, i] in all: [samples, n]."""
        known = np.maximum(self.length, rows.goal[self.rows])
        # The last token of an output needs no slot.
        return np.maximum(rows.prompt_length[self.rows] + output - 1 - known, 0)

    def peaks(self, growth: Counts) -> Counts:
        """Slots needed at most if request i takes growth[s, i] slots after its known tokens, one a step: [samples].

        A step of prefill runs at least one token, so what a request holds t steps from now is at most
        held + pending - quickest + t. It lives for slowest + growth * pace steps and one more, until its last result is
        read, in which all but the last of the requests to end may grow once more.
        """
        lifetimes = self.slowest + growth * self.pace + 1
        shared = np.concatenate([shares.tokens for shares in self.shares])
        held = np.concatenate([self.held + self.pending - self.quickest, shared])
        grows = np.repeat([1, 0], [len(self.held), len(shared)])
        if len(shared):
            lifetimes = np.concatenate([lifetimes, *[shares.outlive(lifetimes) for shares in self.shares]], axis=1)
        return np.maximum(peaks(held, grows, lifetimes) - 1, 0)


def shared_in_tree(running: Running, taking_part: Counts) -> tuple[Counts, Shares]:
    """Tokens of the prefix tree that each of these rows alone holds, [n], and those that several of them do."""
    tree = running.pool.tree
    holders, nodes = tree.paths(running.rows.node[taking_part])
    is_shared = np.bincount(nodes, minlength=1)[nodes] > 1
    tokens = tree.lengths(nodes)
    alone = np.bincount(holders[~is_shared], weights=tokens[~is_shared], minlength=len(taking_part))
    by_node = np.flatnonzero(is_shared)[np.argsort(nodes[is_shared], kind="stable")]
    starts = np.flatnonzero(np.diff(nodes[by_node], prepend=-1))
    return alone.astype(np.int64), Shares(tokens[by_node[starts]], starts, holders[by_node])


def shared_to_come(rows: Rows, taking_part: Counts, length: Counts) -> tuple[Counts, list[Shares]]:
    """Tokens that each of these rows alone has yet to run, [n], and those that several of them will share.

    Requests of a family know the same tokens up to `common`; whoever runs them first, the others find them in the tree.
    """
    goal, family, common = rows.goal[taking_part], rows.family[taking_part], rows.common[taking_part]
    begin, shares = length.copy(), []
    grouped = np.flatnonzero((family >= 0) & (length < goal))
    for name in np.unique(family[grouped]).tolist():
        members = grouped[family[grouped] == name]
        start = int(length[members].max())
        for end in np.unique(common[members]).tolist():
            holders = members[common[members] >= end]
            if end > start and len(holders) > 1:
                begin[holders] = end
                shares.append(Shares(np.array([end - start]), np.zeros(1, dtype=np.int64), holders))
                start = end
    return np.maximum(goal - begin, 0), shares


def _by_the_oldest(alone: Counts, to_come: list[Shares]) -> Counts:
    """Tokens that each of n requests has to run if of its holders the oldest runs what they share: [n]."""
    to_run = alone.copy()
    for shares in to_come:
        to_run[shares.holders[0]] += shares.tokens[0]
    return to_run


def most_taken(rows: Rows, prefilling: Counts, limits: StepLimits, *, budget: int) -> int:
    """Slots that the rows `prefilling`, oldest first, take at most in a step that has `budget` tokens for them."""
    length = rows.length[prefilling]
    to_run = _by_the_oldest(*shared_to_come(rows, prefilling, length))
    chunks = np.minimum(rows.goal[prefilling] - length, limits.chunk)
    family = rows.family[prefilling]
    _, family = np.unique(np.where(family < 0, -1 - np.arange(len(family)), family), return_inverse=True)
    each = np.minimum(np.bincount(family, weights=chunks), np.bincount(family, weights=to_run))
    return min(budget, int(each.sum()))


def quickest_prefill(pending: Counts, limits: StepLimits) -> Counts:
    """Fewest steps in which each of n requests can run its pending tokens."""
    return -(-pending // limits.chunk)


def slowest_prefill(pending: Counts, to_run: Counts, limits: StepLimits) -> Counts:
    """Most steps that it takes each of n requests, oldest first, to have its pending tokens run and go on to decode.

    to_run [n]: the same where what several requests wait for is only the oldest's. At worst all others decode. Of the
    tokens that a step has left a request gets a full chunk, unless older ones use them up, which they can do only as
    often as their tokens last. Where prompts go first, to decode may have to wait for the last of them.
    """
    left = limits.tokens - len(pending) + 1
    if limits.small_tokens:
        left = min(left, max(limits.small_tokens - len(pending) + 1, limits.least_room))
    left = max(1, min(left, limits.prompt_tokens))
    chunk = min(limits.chunk, left)
    total = np.cumsum(to_run)
    is_late = (pending > 0) & (total - to_run + chunk > left)
    slowest = -(-pending // chunk) + np.where(is_late, total // left, 0)
    return np.full_like(slowest, slowest.max(initial=0)) if limits.prompts_first else slowest
