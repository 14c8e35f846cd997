"""What must hold of the scheduler's memory between any two calls."""

import numpy as np

from lightllm.serving.scheduling.pool import Pool
from lightllm.serving.scheduling.prefix_tree import ROOT, PrefixTree
from lightllm.serving.scheduling.scheduler import Scheduler


def check(scheduler: Scheduler) -> None:
    rows, pool = scheduler._running.rows, scheduler._pool
    seated = [row for row, request in enumerate(rows.requests) if request is not None]
    own = [rows.slots[row, rows.in_tree[row] : rows.length[row]] for row in seated]
    check_slots(pool, own)
    check_tree(pool.tree, [int(rows.node[row]) for row in seated])
    for row in seated:
        _check_row(scheduler, row)
    for request in scheduler._waiting._requests:
        assert request.row == -1
        assert not request.has_ended
    assert sorted(rows._free) == [row for row, request in enumerate(rows.requests) if request is None]


def check_slots(pool: Pool, own: list[np.ndarray]) -> None:
    """Every slot is free, or in the tree, or one request's own; never two of these, never none."""
    free = pool.slots.free_slots()
    assert len(free) == pool.slots.num_free
    everything = np.concatenate([free, *own, *[pool.tree._slots[node] for node in nodes_of(pool.tree)]])
    assert np.array_equal(np.sort(everything), np.arange(pool.pool_tokens))
    assert np.array_equal(pool.slots._room, pool.slots._by_block.sum(axis=1))


def nodes_of(tree: PrefixTree) -> list[int]:
    nodes, reached = [], [ROOT]
    while reached:
        node = reached.pop()
        reached += tree._children[node].values()
        nodes.append(node)
    return nodes


def check_tree(tree: PrefixTree, held: list[int]) -> None:
    nodes = nodes_of(tree)
    holders = dict.fromkeys(nodes, 0)
    for node in held:
        while node != ROOT:
            holders[node] += 1
            node = int(tree._parent[node])
    for node in nodes[1:]:
        assert tree._holders[node] == holders[node]
        assert len(tree._tokens[node]) == len(tree._slots[node]) == tree._length[node] > 0
        assert tree._children[tree._parent[node]][int(tree._tokens[node][0])] == node
        if holders[node] == 0 and not tree._children[node]:
            assert tree._is_queued[node], "what may be evicted waits for it"
    assert len(nodes) + len(tree._unused_nodes) == len(tree._parent)
    assert tree.num_tokens == sum(len(tree._tokens[node]) for node in nodes)
    assert tree.num_unheld == sum(len(tree._tokens[node]) for node in nodes[1:] if holders[node] == 0)
    assert len(tree._queue) == len(set(tree._queue)) == sum(tree._is_queued)


def _check_row(scheduler: Scheduler, row: int) -> None:
    rows, tree = scheduler._running.rows, scheduler._pool.tree
    assert rows.in_tree[row] <= rows.length[row] <= rows.limit[row]
    assert rows.told[row] <= rows.length[row]
    path, node = [], int(rows.node[row])
    while node != ROOT:
        path.append(tree._slots[node])
        node = int(tree._parent[node])
    in_tree = np.concatenate(path[::-1]) if path else np.empty(0, dtype=np.int32)
    assert np.array_equal(rows.slots[row, : rows.in_tree[row]], in_tree)
