"""What must hold of the scheduler's memory between any two calls."""

import numpy as np

from lightllm.serving.scheduling.pool import Pool
from lightllm.serving.scheduling.prefix_tree import PrefixTree
from lightllm.serving.scheduling.scheduler import Scheduler


def check(scheduler: Scheduler) -> None:
    rows, pool = scheduler._running.rows, scheduler._pool
    seated = [row for row, request in enumerate(rows.requests) if request is not None]
    own = [rows.slots[row, rows.in_tree[row] : rows.length[row]] for row in seated]
    check_slots(pool, own)
    check_tree(pool.tree, rows.node[seated].tolist())
    for row in seated:
        _check_row(scheduler, row)
    for request in scheduler._waiting:
        assert request.row == -1
        assert not request.has_ended
    assert sorted(rows._free + seated) == list(range(len(rows.requests)))


def check_slots(pool: Pool, own: list[np.ndarray]) -> None:
    """Every slot is free, or in the tree, or one request's own; never two of these, never none."""
    free = pool.slots.free_slots()
    assert len(free) == pool.slots.num_free
    everything = [free, *own, *[pool.tree._slots[node] for node in nodes_of(pool.tree)]]
    assert sorted(np.concatenate(everything).tolist()) == list(range(pool.pool_tokens))
    assert pool.slots._room.tolist() == pool.slots._by_block.sum(axis=1).tolist()


def nodes_of(tree: PrefixTree) -> list[int]:
    nodes, reached = [], list(tree._roots.values())
    while reached:
        node = reached.pop()
        reached += tree._children[node].values()
        nodes.append(node)
    return nodes


def check_tree(tree: PrefixTree, held: list[int]) -> None:
    nodes, roots = nodes_of(tree), set(tree._roots.values())
    lengths = {node: len(tree._tokens[node]) for node in nodes}
    holders, parent = dict.fromkeys(nodes, 0), {node: int(tree._parent[node]) for node in nodes}
    for node in held:
        while node not in roots:
            holders[node] += 1
            node = parent[node]
    below = [node for node in nodes if node not in roots]
    for node in below:
        assert tree._holders[node] == holders[node]
        assert lengths[node] == len(tree._slots[node]) == tree._length[node] > 0
        assert tree._children[parent[node]][int(tree._tokens[node][0])] == node
        if holders[node] == 0 and not tree._children[node]:
            assert tree._is_queued[node], "what may be evicted waits for it"
    assert len(nodes) + len(tree._unused_nodes) == len(tree._parent)
    assert tree.num_tokens == sum(lengths.values())
    assert tree.num_unheld == sum(lengths[node] for node in below if holders[node] == 0)
    assert len(tree._queue) == len(set(tree._queue)) == sum(tree._is_queued)


def _check_row(scheduler: Scheduler, row: int) -> None:
    rows, tree = scheduler._running.rows, scheduler._pool.tree
    told, in_tree = int(rows.told[row]), int(rows.in_tree[row])
    length, limit, node = int(rows.length[row]), int(rows.limit[row]), int(rows.node[row])
    assert told <= length
    assert in_tree <= length <= limit
    path: list[int] = []
    while node not in tree._roots.values():
        path = tree._slots[node].tolist() + path
        node = int(tree._parent[node])
    assert rows.slots[row, :in_tree].tolist() == path
