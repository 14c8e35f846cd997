import random

import numpy as np
import pytest

from lightllm.serving.scheduling.prefix_tree import ROOT, PrefixTree
from tests.serving.scheduling.invariants import check_tree, nodes_of


def array(values) -> np.ndarray:
    return np.array(list(values), dtype=np.int32)


def enter(tree: PrefixTree, tokens: list[int], slots: list[int]) -> tuple[int, int]:
    """What a request does: finds, adds the rest, and holds the whole. Returns its node and how much was found."""
    node, found = tree.find(ROOT, array(tokens))
    if len(found) < len(tokens):
        node = tree.add(node, array(tokens[len(found) :]), array(slots[len(found) :]))
    return node, len(found)


def test_a_prefix_is_found_with_its_slots():
    tree = PrefixTree()
    enter(tree, [1, 2, 3, 4], [10, 11, 12, 13])
    node, found = tree.find(ROOT, array([1, 2, 9]))
    assert found.tolist() == [10, 11]
    assert tree.find(node, array([3, 4, 5]))[1].tolist() == [12, 13]
    assert tree.find(ROOT, array([2]))[1].tolist() == []


def test_a_split_keeps_every_handle_valid():
    tree = PrefixTree()
    whole, _ = enter(tree, [1, 2, 3, 4], [10, 11, 12, 13])
    part, _ = tree.find(ROOT, array([1, 2]))
    check_tree(tree, [whole, part])
    tree.release(whole)
    assert tree.num_unheld == 2
    check_tree(tree, [part])
    assert tree.evict(2).tolist() == [12, 13]
    tree.release(part)
    assert tree.evict(2).tolist() == [10, 11]
    check_tree(tree, [])


def test_roots_of_different_salts_share_nothing():
    tree = PrefixTree()
    mine, other = tree.root(1), tree.root(2)
    assert len({ROOT, mine, other, tree.root(0), tree.root(1)}) == 3
    nodes = [
        tree.add(mine, array([1, 2, 3]), array([10, 11, 12])),
        tree.add(other, array([1, 2, 3]), array([20, 21, 22])),
    ]
    assert tree.count(ROOT, array([1, 2, 3])) == 0
    assert tree.find(mine, array([1, 2]))[1].tolist() == [10, 11]
    part, found = tree.find(other, array([1, 2]))
    assert found.tolist() == [20, 21]
    part_of_mine, _ = tree.find(mine, array([1, 2]))
    check_tree(tree, [*nodes, part, part_of_mine, part_of_mine])
    for node in (*nodes, part, part_of_mine, part_of_mine):
        tree.release(node)
    assert sorted(tree.evict(6).tolist()) == [10, 11, 12, 20, 21, 22]
    check_tree(tree, [])


def test_roots_with_nothing_below_them_are_dropped_unless_they_are_in_use():
    tree = PrefixTree()
    roots = {salt: tree.root(salt) for salt in range(300)}
    assert tree.has_many_roots
    node = tree.add(roots[7], array([1, 2]), array([10, 11]))
    tree.drop_roots(but=array([roots[9]]))
    assert not tree.has_many_roots
    assert [tree.root(salt) for salt in (0, 7, 9)] == [ROOT, roots[7], roots[9]]
    part, found = tree.find(tree.root(7), array([1]))
    assert found.tolist() == [10]
    tree.root(300)
    check_tree(tree, [node, part])


def test_only_as_many_tokens_as_needed_are_evicted_from_the_end():
    tree = PrefixTree()
    node, _ = enter(tree, list(range(100)), list(range(100)))
    tree.release(node)
    assert tree.evict(30).tolist() == list(range(70, 100))
    assert len(tree.find(ROOT, array(range(100)))[1]) == 70


def test_the_least_recently_used_goes_first():
    tree = PrefixTree()
    for first in (0, 10, 20):
        tree.release(enter(tree, [first, first + 1], [first, first + 1])[0])
    tree.release(tree.find(ROOT, array([0, 1]))[0])
    assert tree.evict(3).tolist() == [10, 11, 21]
    assert tree.evict(3).tolist() == [20, 0, 1] or tree.num_tokens == 0


def test_what_is_held_is_never_evicted():
    tree = PrefixTree()
    node, _ = enter(tree, [1, 2, 3], [1, 2, 3])
    assert tree.num_unheld == 0
    with pytest.raises(AssertionError, match="nobody holds"):
        tree.evict(1)
    tree.release(node)
    assert tree.evict(3).tolist() == [1, 2, 3]


def test_small_chunks_of_one_request_make_no_long_chain():
    tree, node = PrefixTree(), ROOT
    for start in range(0, 20_000, 16):
        tokens = array(range(start, start + 16))
        node = tree.add(node, tokens, tokens)
    assert len(nodes_of(tree)) < 10
    check_tree(tree, [node])


def test_a_very_deep_tree_needs_no_recursion():
    tree = PrefixTree()
    enter(tree, list(range(3000)), list(range(3000)))
    for end in range(2999, 0, -1):
        tree.find(ROOT, array(range(end)))
    assert len(nodes_of(tree)) == 3001
    node, found = tree.find(ROOT, array(range(3000)))
    assert len(found) == 3000
    tree.release(node)


def test_paths_name_every_node_above_each_holder():
    tree = PrefixTree()
    nodes = [
        enter(tree, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5])[0],
        enter(tree, [1, 2, 3, 9], [0, 0, 0, 9])[0],
        tree.find(ROOT, array([1, 2, 3]))[0],
        ROOT,
    ]
    holders, on_the_way = tree.paths(array(nodes))
    common = nodes[2]
    pairs = sorted(zip(holders.tolist(), on_the_way.tolist(), strict=True))
    assert pairs == sorted([(0, nodes[0]), (0, common), (1, nodes[1]), (1, common), (2, common)])
    assert tree.lengths(array([nodes[0], nodes[1], common])).tolist() == [2, 1, 3]
    for none in ([], [ROOT, ROOT]):
        assert [len(part) for part in tree.paths(array(none))] == [0, 0]


class Model:
    """What the tree should say, by brute force: all prefixes in it, with their slots."""

    def __init__(self) -> None:
        self.slots: dict[tuple[int, ...], int] = {}

    def longest(self, tokens: list[int]) -> list[int]:
        found = []
        for end in range(1, len(tokens) + 1):
            if (slot := self.slots.get(tuple(tokens[:end]))) is None:
                break
            found.append(slot)
        return found


@pytest.mark.parametrize("seed", range(20))
def test_the_tree_agrees_with_a_dictionary_of_prefixes(seed: int):
    draw, tree, model = random.Random(seed), PrefixTree(), Model()
    held: list[tuple[int, list[int]]] = []
    next_slot = 0
    for _ in range(300):
        if held and draw.random() < 0.4:
            node, _ = held.pop(draw.randrange(len(held)))
            tree.release(node)
        elif draw.random() < 0.2 and tree.num_unheld:
            dropped = set(tree.evict(draw.randint(1, tree.num_unheld)).tolist())
            model.slots = {prefix: slot for prefix, slot in model.slots.items() if slot not in dropped}
        else:
            tokens = [draw.randrange(3) for _ in range(draw.randint(1, 12))]
            expected = model.longest(tokens)
            node, found = tree.find(ROOT, array(tokens))
            assert found.tolist() == expected
            new = list(range(next_slot, next_slot + len(tokens) - len(expected)))
            next_slot += len(new)
            if new:
                node = tree.add(node, array(tokens[len(expected) :]), array(new))
                for end, slot in zip(range(len(expected) + 1, len(tokens) + 1), new, strict=True):
                    model.slots[tuple(tokens[:end])] = slot
            held.append((node, tokens))
        check_tree(tree, [node for node, _ in held])
        assert tree.num_tokens == len(model.slots)
        assert all(model.longest(tokens) == tree_slots(tree, node) for node, tokens in held)


def tree_slots(tree: PrefixTree, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path = tree._slots[node].tolist() + path
        node = int(tree._parent[node])
    return path
