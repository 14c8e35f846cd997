import os

from lightllm.base.shared_memory import SharedMemory
from lightllm.base.status import State, Status


def test_both_mappings_are_one_memory_without_a_name():
    first = SharedMemory.create("test", 4096)
    second = SharedMemory(first.fd)
    first.view[7] = 200
    assert second.view[7] == 200
    assert not os.path.exists("/dev/shm/lightllm-test")


def test_views_outlive_the_descriptor():
    memory = Status.create()
    status = Status(memory)
    memory.close()
    status.state = State.DRAINING
    status.restarts += 1
    assert (status.state, status.restarts) == (State.DRAINING, 1)
