import random

import numpy as np
import pytest

from lightllm.serving.scheduling.slots import SlotAllocator


def num_runs(slots: np.ndarray) -> int:
    return 1 + int(np.count_nonzero(np.diff(slots) != 1))


class Stack:
    """The simplest allocator: last freed, first taken."""

    def __init__(self, pool_tokens: int):
        self._free = list(range(pool_tokens))[::-1]

    def take(self, count: int) -> np.ndarray:
        return np.array([self._free.pop() for _ in range(count)], dtype=np.int32)

    def take_after(self, last: np.ndarray) -> np.ndarray:
        return self.take(len(last))

    def free(self, slots: np.ndarray) -> None:
        self._free += slots.tolist()


def runs_after_churn(allocator: SlotAllocator | Stack, pool_tokens: int) -> float:
    """Requests come, decode together and end; returns how many runs a prompt of 512 tokens is spread over."""
    draw, running, free, runs = random.Random(0), [], pool_tokens, []
    for _ in range(3000):
        ends = [request for request in running if len(request[0]) >= request[1]]
        for slots, _ in ends:
            allocator.free(np.array(slots, dtype=np.int32))
            free += len(slots)
        running = [request for request in running if len(request[0]) < request[1]]
        if running:
            for request, slot in zip(running, allocator.take_after(np.array([r[0][-1] for r in running])), strict=True):
                request[0].append(int(slot))
            free -= len(running)
        while free > pool_tokens // 3:
            prompt = draw.choice([40, 200, 512])
            slots = allocator.take(prompt)
            runs += [num_runs(slots)] if prompt == 512 else []
            running.append((slots.tolist(), prompt + draw.randint(10, 300)))
            free -= prompt
    return float(np.mean(runs[len(runs) // 2 :]))


def test_prompts_lie_in_few_runs_after_churn():
    pool_tokens = 16_384
    naive = runs_after_churn(Stack(pool_tokens), pool_tokens)
    assert naive > 50
    assert runs_after_churn(SlotAllocator(pool_tokens), pool_tokens) < naive / 20


@pytest.mark.parametrize("pool_tokens", [1, 63, 64, 65, 1000])
def test_every_slot_can_be_taken_once(pool_tokens: int):
    allocator = SlotAllocator(pool_tokens)
    first = allocator.take(pool_tokens // 2)
    rest = np.concatenate([allocator.take(1) for _ in range(pool_tokens - len(first))])
    assert allocator.num_free == 0
    assert sorted([*first.tolist(), *rest.tolist()]) == list(range(pool_tokens))


def test_the_slot_after_is_taken_where_it_is_free():
    allocator = SlotAllocator(256)
    first, second = allocator.take(64), allocator.take(10)
    after = allocator.take_after(np.array([first[-1], second[-1]], dtype=np.int32))
    assert after[1] == second[-1] + 1
    # Block by block: the slot after the first run is the second one's, so it begins a free block of its own.
    assert after[0] % 64 == 0
    assert after[0] not in [*first, *second]


def test_the_last_slots_are_found_wherever_they_are():
    allocator = SlotAllocator(200)
    everything = allocator.take(200)
    allocator.free(everything[[3, 77, 150, 199]])
    after = allocator.take_after(everything[[2, 10, 20]])
    assert after[0] == everything[3]
    assert set(after.tolist()) < set(everything[[3, 77, 150, 199]].tolist())
    assert allocator.num_free == 1


def test_a_slot_cannot_be_freed_twice():
    allocator = SlotAllocator(10)
    slots = allocator.take(5)
    allocator.free(slots[:2])
    with pytest.raises(AssertionError, match="freed once"):
        allocator.free(slots[1:3])


def test_random_takes_and_frees_conserve_slots():
    draw, allocator, taken = random.Random(1), SlotAllocator(500), []
    for _ in range(2000):
        if taken and draw.random() < 0.5:
            some = [taken.pop(draw.randrange(len(taken))) for _ in range(draw.randint(1, len(taken)))]
            allocator.free(np.array(some, dtype=np.int32))
        elif draw.random() < 0.5 and taken and allocator.num_free:
            last = np.array(draw.sample(taken, min(len(taken), draw.randint(1, allocator.num_free))), dtype=np.int32)
            taken += allocator.take_after(last).tolist()
        else:
            taken += allocator.take(draw.randint(0, allocator.num_free)).tolist()
        assert sorted([*taken, *allocator.free_slots().tolist()]) == list(range(500))
        assert len(taken) + allocator.num_free == 500
