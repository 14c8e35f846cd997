"""What all processes may know of the engine as a whole: one small record in shared memory."""

from enum import IntEnum

import numpy as np

from lightllm.base.shared_memory import SharedMemory


class State(IntEnum):
    """Of the engine, as the supervisor sees it."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2
    FAILED = 3


STATUS = np.dtype(
    [
        ("state", np.int64),  # written by the supervisor
        ("restarts", np.int64),  # written by the supervisor: how often the engine was started again
        ("pool_tokens", np.int64),  # written by the scheduler: slots of the KV pool
        ("max_request_tokens", np.int64),  # written by the scheduler: longest prompt plus output it can serve
    ]
)


class Status:
    """Attribute access to the one STATUS record."""

    def __init__(self, memory: SharedMemory):
        self.record = np.frombuffer(memory.view[: STATUS.itemsize], dtype=STATUS)

    @staticmethod
    def create() -> SharedMemory:
        return SharedMemory.create("status", 4096)

    @property
    def state(self) -> State:
        return State(int(self.record["state"][0]))

    @state.setter
    def state(self, state: State) -> None:
        self.record["state"][0] = state

    @property
    def restarts(self) -> int:
        return int(self.record["restarts"][0])

    @restarts.setter
    def restarts(self, count: int) -> None:
        self.record["restarts"][0] = count

    @property
    def pool_tokens(self) -> int:
        return int(self.record["pool_tokens"][0])

    @property
    def max_request_tokens(self) -> int:
        return int(self.record["max_request_tokens"][0])
