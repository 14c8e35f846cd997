import random
from dataclasses import dataclass

from lightllm.serving.scheduling.keyed_heap import KeyedHeap


@dataclass(eq=False)
class Thing:
    order: int


def test_the_head_is_the_least_of_what_is_in_after_any_changes():
    draw = random.Random(0)
    heap, keys = KeyedHeap[Thing](), {}
    things = [Thing(order) for order in range(60)]
    for _ in range(4000):
        thing = draw.choice(things)
        if draw.random() < 0.6:
            keys[thing] = draw.randrange(20)
            heap.add(thing, keys[thing])
        else:
            keys.pop(thing, None)
            heap.discard(thing)
        assert len(heap) == len(keys)
        assert (thing in heap) == (thing in keys)
        assert set(heap) == set(keys)
        assert heap.head is min(keys, key=lambda thing: (keys[thing], thing.order), default=None)


def test_what_was_discarded_takes_no_memory():
    heap = KeyedHeap[Thing]()
    heap.add(Thing(0), 0)
    for order in range(1, 10_000):
        thing = Thing(order)
        heap.add(thing, order)
        heap.discard(thing)
    assert len(heap._entries) < 200
