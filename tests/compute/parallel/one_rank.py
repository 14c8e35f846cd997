"""One of the processes of test_process_group: python -m tests.compute.parallel.one_rank DIRECTORY RANK RANKS."""

import sys
from pathlib import Path

import torch
from torch.distributed import FileStore

from lightllm.compute.parallel.process_group import join, leave, subgroup
from tests.compute.driver import CPU, load, run, tensor_mesh


def main(directory: Path, rank: int, ranks: int) -> None:
    torch.set_num_threads(1)
    sequences, steps = torch.load(directory / "work.pt")
    group = join(FileStore(str(directory / "store"), ranks), rank=rank, ranks=ranks, device=CPU)
    singles = [subgroup([single]) for single in range(ranks)]
    own = torch.full((2, 3), rank + 1.0)
    results = {
        "sum": group.sum(own.clone()),
        "gather_last": group.gather_last(own),
        "broadcast": group.broadcast(torch.tensor([7 if rank == 0 else 0])),
        "alone": singles[rank].sum(torch.full((2,), float(rank))),
        "logits": run(load(directory, tensor_mesh(group)), sequences, steps),
    }
    torch.save(results, directory / f"{rank}.pt")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
