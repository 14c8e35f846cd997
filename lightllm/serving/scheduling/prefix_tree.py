"""Tokens whose keys and values are in the pool, as a radix tree over token ids; its values are slots.

A node is an integer. It stands for the tokens on the way from the root to its end. Who uses a prefix holds the node
where it ends; a hold counts on every node up to the root, so a node that nobody holds has no held node below it, and
all its tokens may be evicted. Every walk begins at a node, and tenants that must not find one another's tokens begin at
roots of their own: a root is its own parent, holds no tokens and stays until it is dropped.
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from lightllm.serving.scheduling.slots import Slots

Tokens = NDArray[np.int32]

ROOT = 0
# A node that only one request holds grows in place up to this many tokens, so that small chunks make no long chains.
_LONGEST_GROWN = 4096
_EMPTY = np.empty(0, dtype=np.int32)
_FEW_ROOTS = 256


class PrefixTree:
    """`num_tokens` are in the tree, `num_unheld` of them only for later use."""

    def __init__(self) -> None:
        self.num_tokens = self.num_unheld = 0
        self._parent = np.zeros(1, dtype=np.int32)
        self._length = np.zeros(1, dtype=np.int32)
        self._tokens: list[Tokens] = [_EMPTY]
        self._slots: list[Slots] = [_EMPTY]
        self._children: list[dict[int, int]] = [{}]
        self._holders: list[int] = [0]
        self._last_use: list[int] = [0]
        self._is_queued: list[bool] = [False]
        self._unused_nodes: list[int] = []
        # (last use, node) of every leaf that nobody holds, at most once; the last use may be outdated.
        self._queue: list[tuple[int, int]] = []
        self._uses = 0
        self._roots = {0: ROOT}  # by salt
        self._most_roots = _FEW_ROOTS

    def root(self, salt: int) -> int:
        """Where walks begin that find only tokens entered from here. 0 stands for all who share with one another."""
        if salt not in self._roots:
            root = self._new_node(parent=ROOT, holders=0)
            self._parent[root] = self._roots[salt] = root
            self._set(root, _EMPTY, _EMPTY)
        return self._roots[salt]

    @property
    def has_many_roots(self) -> bool:
        """Whether it is time to drop some: clients may make up as many salts as they like."""
        return len(self._roots) > self._most_roots

    def drop_roots(self, *, but: NDArray[np.int32]) -> None:
        """Drops the roots below which there is nothing, but for those among these nodes, where walks go on."""
        kept = {ROOT, *but.tolist()}
        for salt, root in list(self._roots.items()):
            if root not in kept and not self._children[root]:
                del self._roots[salt]
                self._parent[root] = ROOT
                self._unused_nodes.append(root)
        self._most_roots = max(_FEW_ROOTS, 2 * len(self._roots))

    def find(self, node: int, tokens: Tokens) -> tuple[int, Slots]:
        """Follows `tokens` from `node` as far as the tree has them; the caller's hold moves along.

        Returns the node where the way ends and the slots of the tokens found.
        """
        found, at, start = [_EMPTY], 0, node
        self._uses += 1
        while at < len(tokens) and (child := self._children[node].get(int(tokens[at]))) is not None:
            same = num_equal(self._tokens[child], tokens[at:])
            node = child if same == self._length[child] else self._split(child, same)
            self._last_use[node] = self._uses
            found.append(self._slots[node])
            at += same
        self._hold(node, above=start)
        return node, np.concatenate(found)

    def count(self, node: int, tokens: Tokens) -> int:
        """How many of `tokens` the tree has after `node`. Nothing is held, used or changed."""
        at = 0
        while at < len(tokens) and (child := self._children[node].get(int(tokens[at]))) is not None:
            same = num_equal(self._tokens[child], tokens[at:])
            at += same
            if same < self._length[child]:
                break
            node = child
        return at

    def has_child(self, node: int, token: int) -> bool:
        """Whether the tree knows a continuation of `node` that begins with `token`."""
        return token in self._children[node]

    def add(self, node: int, tokens: Tokens, slots: Slots) -> int:
        """Adds a continuation that the tree does not have; the caller's hold moves to its end, which is returned."""
        assert not self.has_child(node, int(tokens[0])), "what the tree has is found, not added"
        self.num_tokens += len(tokens)
        can_grow = not self._is_root(node) and self._holders[node] == 1 and not self._children[node]
        if can_grow and self._length[node] < _LONGEST_GROWN:
            self._set(node, np.concatenate([self._tokens[node], tokens]), np.concatenate([self._slots[node], slots]))
            return node
        new = self._new_node(parent=node, holders=1)
        self._set(new, tokens.copy(), slots.copy())
        self._children[node][int(tokens[0])] = new
        return new

    def release(self, node: int) -> None:
        """The caller no longer holds `node`."""
        self._uses += 1
        while not self._is_root(node):
            self._holders[node] -= 1
            assert self._holders[node] >= 0, "who releases has held"
            self._last_use[node] = self._uses
            if self._holders[node] == 0:
                self.num_unheld += int(self._length[node])
                self._enqueue(node)
            node = int(self._parent[node])

    def evict(self, count: int) -> Slots:
        """Drops `count` tokens that nobody holds and returns their slots: from the ends of the least recently used."""
        assert count <= self.num_unheld, "only what nobody holds can be evicted"
        self.num_unheld -= count
        self.num_tokens -= count
        dropped = []
        while count > 0:
            last_use, node = heapq.heappop(self._queue)
            self._is_queued[node] = False
            if last_use == self._last_use[node] and self._is_evictable(node):
                dropped.append(self._cut(node, min(count, int(self._length[node]))))
                count -= len(dropped[-1])
            else:
                self._enqueue(node)
        return np.concatenate(dropped) if dropped else _EMPTY

    def paths(self, nodes: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The nodes on the ways from a root to nodes[i], as pairs (i, node): [m], [m]. The root is left out."""
        holders, pairs = np.arange(len(nodes)), []
        while (below_root := (parents := self._parent[nodes]) != nodes).any():
            holders = holders[below_root]
            pairs.append((holders, nodes[below_root]))
            nodes = parents[below_root]
        if not pairs:
            return holders[:0], nodes[:0]
        holders, nodes = (np.concatenate(part) for part in zip(*pairs, strict=True))
        return holders, nodes

    def lengths(self, nodes: NDArray[np.int32]) -> NDArray[np.int64]:
        """Tokens that each of these nodes adds to its parent's: [n]."""
        return self._length[nodes].astype(np.int64)

    def _hold(self, node: int, *, above: int) -> None:
        """Extends a hold on `above` to its descendant `node`."""
        while node != above:
            if self._holders[node] == 0:
                self.num_unheld -= int(self._length[node])
            self._holders[node] += 1
            node = int(self._parent[node])

    def _split(self, node: int, at: int) -> int:
        """Cuts `node` in two. It keeps its end, and with it its holders' handles; returns the new node above it."""
        upper = self._new_node(parent=int(self._parent[node]), holders=self._holders[node])
        tokens, slots = self._tokens[node], self._slots[node]
        self._set(upper, tokens[:at].copy(), slots[:at].copy())
        self._set(node, tokens[at:].copy(), slots[at:].copy())
        self._children[int(self._parent[node])][int(tokens[0])] = upper
        self._children[upper][int(tokens[at])] = node
        self._parent[node] = upper
        return upper

    def _cut(self, node: int, count: int) -> Slots:
        """Takes the last `count` tokens off a leaf; without any left it is gone."""
        keep = int(self._length[node]) - count
        first, slots = int(self._tokens[node][0]), self._slots[node]
        self._set(node, self._tokens[node][:keep], slots[:keep])
        if keep:
            self._enqueue(node)
        else:
            parent = int(self._parent[node])
            del self._children[parent][first]
            self._parent[node] = ROOT
            self._unused_nodes.append(node)
            self._enqueue(parent)
        return slots[keep:]

    def _is_root(self, node: int) -> bool:
        return self._parent[node] == node

    def _is_evictable(self, node: int) -> bool:
        return self._holders[node] == 0 and not self._is_root(node) and not self._children[node]

    def _enqueue(self, node: int) -> None:
        if self._is_evictable(node) and not self._is_queued[node]:
            self._is_queued[node] = True
            heapq.heappush(self._queue, (self._last_use[node], node))

    def _set(self, node: int, tokens: Tokens, slots: Slots) -> None:
        self._tokens[node], self._slots[node], self._length[node] = tokens, slots, len(tokens)

    def _new_node(self, *, parent: int, holders: int) -> int:
        if not self._unused_nodes:
            self._make_nodes()
        node = self._unused_nodes.pop()
        self._parent[node], self._holders[node], self._last_use[node] = parent, holders, self._uses
        return node

    def _make_nodes(self) -> None:
        """Doubles the number of nodes."""
        count = len(self._parent)
        self._parent = np.concatenate([self._parent, np.zeros(count, dtype=np.int32)])
        self._length = np.concatenate([self._length, np.zeros(count, dtype=np.int32)])
        self._tokens += [_EMPTY] * count
        self._slots += [_EMPTY] * count
        self._children += [{} for _ in range(count)]
        self._holders += [0] * count
        self._last_use += [0] * count
        self._is_queued += [False] * count
        self._unused_nodes += range(2 * count - 1, count - 1, -1)


def num_equal(left: Tokens, right: Tokens) -> int:
    """How many leading tokens are the same."""
    count = min(len(left), len(right))
    differs = left[:count] != right[:count]
    first = int(differs.argmax())
    return first if differs[first] else count
