"""Ranks as threads of one process: the same collectives as processes have, without their start-up."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from lightllm.compute.parallel.mesh import Group

T = TypeVar("T")


class ThreadRanks:
    def __init__(self, ranks: int):
        self.ranks, self.boxes, self.barrier = ranks, [None] * ranks, threading.Barrier(ranks, timeout=60)

    def exchange(self, rank: int, x: Any) -> list[Any]:
        self.boxes[rank] = x
        self.barrier.wait()
        everyone = list(self.boxes)
        self.barrier.wait()
        return everyone

    def group(self, rank: int) -> Group:
        return Group(
            rank,
            self.ranks,
            sum=lambda x: torch.stack(self.exchange(rank, x)).sum(0),
            gather_last=lambda x: torch.cat(self.exchange(rank, x), dim=-1),
            broadcast=lambda x: self.exchange(rank, x)[0],
        )

    def run(self, work: Callable[[Group], T]) -> list[T]:
        """work(group) on every rank. Raises what the first failing rank raised."""
        results: list[Any] = [None] * self.ranks
        errors: list[BaseException] = []

        def body(rank: int) -> None:
            try:
                with torch.inference_mode():
                    results[rank] = work(self.group(rank))
            except threading.BrokenBarrierError:
                pass
            except Exception as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=body, args=(rank,)) for rank in range(self.ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results
