"""How long a call takes on a device, and the most that the device can do."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CACHE_BYTES = {"cuda": 256e6, "cpu": 64e6}  # several times what the largest caches hold
MOST_COPIES = 24
REPLAYS = 7
REPLAY_S = 4e-3  # about how long one replay takes
MOST_CALLS = 400  # of a replay
SLOW_S = 0.02  # a call that takes longer is repeated by itself: caches do not matter
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Work to be timed. make: the arguments of one call; bytes_moved, operations: the least it needs.

    waits: for the device, as references may, which then cannot be part of a CUDA graph.
    """

    op: str
    size: str
    implementation: str
    function: Callable[..., Any]
    make: Callable[[], tuple[Any, ...]]
    bytes_moved: float
    operations: float = 0.0
    waits: bool = False

    @property
    def name(self) -> str:
        return f"{self.op} {self.size} {self.implementation}"

    def calls(self, device: torch.device) -> list[Call]:
        """Calls with arguments of their own, together larger than caches."""
        copies = min(max(int(CACHE_BYTES[device.type] / self.bytes_moved), 1), MOST_COPIES)
        return [functools.partial(self.function, *self.make()) for _ in range(copies)]


@dataclass(frozen=True)
class Roof:
    """What this device reaches at best, measured: bytes a second copied and read, operations a second."""

    copy_bytes_s: float
    read_bytes_s: float
    operations_s: float

    def share(self, case: Case, seconds: float) -> float:
        """The time that the case needs at least, by bytes or by operations, over the time it takes."""
        return max(case.bytes_moved / self.read_bytes_s, case.operations / self.operations_s) / seconds


def seconds_of(calls: list[Call], device: torch.device, *, waits: bool = False) -> tuple[float, float]:
    """Median time of a call when all take turns, and the spread of replays: (slowest - fastest) / median.

    On CUDA the calls are in a graph, unless they wait: launching on the device counts, the host does not.
    """
    calls[0]()
    if _run_s(calls[-1:], device) > SLOW_S:
        calls = calls[:1]
    count = len(calls)
    while True:
        turns = list(itertools.islice(itertools.cycle(calls), count))
        replay = functools.partial(_run_s, turns, device) if waits or device.type != "cuda" else _recorded(turns)
        times = [replay() / count for _ in range(REPLAYS)]
        median = statistics.median(times)
        wanted = min(int(REPLAY_S / median), MOST_CALLS)
        if count >= wanted or count > len(calls):
            return median, (max(times) - min(times)) / median
        count = wanted


def _recorded(calls: Iterable[Call]) -> Callable[[], float]:
    """What runs these calls once, as a graph, and says how many seconds they took."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return functools.partial(_graph_s, graph)


def _run_s(calls: Iterable[Call], device: torch.device) -> float:
    began = time.perf_counter()
    for call in calls:
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _graph_s(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def measure_roof(device: torch.device, dtype: torch.dtype) -> Roof:
    """Copying and reading much more than caches hold, and a large product."""
    is_large = device.type == "cuda"
    numbers, width = (1 << 29, 8192) if is_large else (1 << 26, 2048)
    big = torch.empty(numbers, dtype=torch.float32, device=device).normal_()
    target = torch.empty_like(big)
    copy = seconds_of([lambda: target.copy_(big)], device)[0]
    read = min(seconds_of([function], device)[0] for function in _reads(big))
    a, b = torch.randn(2, width, width, dtype=dtype, device=device)
    product = seconds_of([lambda: a @ b], device)[0]
    # Reading is at least as fast as copying moves bytes, whatever the reductions that were tried reach.
    copied = 2 * big.nbytes / copy
    return Roof(copied, max(big.nbytes / read, copied), 2 * width**3 / product)


def _reads(big: Tensor) -> list[Call]:
    return [lambda: torch.max(big), lambda: torch.sum(big.view(-1, 4096), dim=1)]
