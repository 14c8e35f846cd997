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
        ("waiting_requests", np.int64),  # written by the scheduler: requests that have not run yet
        ("waiting_tokens", np.int64),  # written by the scheduler: tokens of their prompts
        ("predicted_wait", np.float64),  # written by the scheduler: seconds until all of them are admitted, or NaN
        ("awake_s", np.float64),  # written by rank 0: for how long processes look for news before they sleep
        ("graph_tokens", np.int64),  # written by rank 0: most tokens of a step, whatever it runs, that is recorded
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

    @property
    def waiting_requests(self) -> int:
        return int(self.record["waiting_requests"][0])

    @property
    def waiting_tokens(self) -> int:
        return int(self.record["waiting_tokens"][0])

    @property
    def predicted_wait(self) -> float:
        return float(self.record["predicted_wait"][0])

    @property
    def awake_s(self) -> float:
        return float(self.record["awake_s"][0])

    @awake_s.setter
    def awake_s(self, seconds: float) -> None:
        self.record["awake_s"][0] = seconds

    @property
    def graph_tokens(self) -> int:
        return int(self.record["graph_tokens"][0])

    @graph_tokens.setter
    def graph_tokens(self, tokens: int) -> None:
        self.record["graph_tokens"][0] = tokens

    def show_queue(self, requests: int, tokens: int, predicted_wait: float) -> None:
        """Tells clients how much waits, so that they need not ask where there is no room."""
        record = self.record[0]
        record["waiting_requests"], record["waiting_tokens"] = requests, tokens
        record["predicted_wait"] = predicted_wait
