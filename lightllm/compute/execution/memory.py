"""How many tokens the KV pool has room for: what a device may use, less what everything else needs, measured."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError

CPU_POOL_BYTES = 4 << 30  # without --max_total_token_num; a CPU's memory is shared with everything else
_GIB = 1 << 30
_CGROUP = Path("/sys/fs/cgroup")


def available(device: torch.device) -> int:
    """Bytes that the device has for this process, before anything is loaded."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    memory = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    limits = [int(memory[1]) * 1024] if memory else []
    return min([*limits, *_container_limits()])


def _container_limits() -> Iterator[int]:
    """What a container leaves to its processes, under either version of control groups; files it caches can go."""
    for folder, limit, usage, cache in [
        (_CGROUP, "memory.max", "memory.current", "file"),
        (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"),
    ]:
        if (folder / limit).is_file() and (text := (folder / limit).read_text().strip()).isdigit():
            cached = re.search(rf"^{cache} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
            yield int(text) - int((folder / usage).read_text()) + (int(cached[1]) if cached else 0)


def peak_of(step: Callable[[], object], device: torch.device) -> int:
    """Bytes that a step on a CUDA device takes beyond what is there before it, fragmentation included."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_reserved(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_reserved(device) - before


def kept_by(make: Callable[[], object], device: torch.device) -> int:
    """Bytes of a CUDA device that are taken by what `make` makes and keeps."""
    before = used(device)
    make()
    return max(used(device) - before, 0)


def used(device: torch.device) -> int:
    """Bytes of a CUDA device that are in use, by this process or others, once freed memory is given back."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return total - free


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Running out of memory within becomes a ConfigError that says during what, and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        if not is_memory:
            raise
        raise ConfigError(f"out of memory while {what}; {remedy}") from error


def gib(size: float) -> str:
    """A size for people."""
    return f"{size / _GIB:.2f} GiB"


def pool_tokens(config: EngineConfig, *, room: float, per_token: int, most: int, cap: float) -> int:
    """Slots of the pool: as many as --max_total_token_num says, else as many as there is `room` for.

    room: bytes that may be used; per_token: bytes that a slot takes. Not given, the pool is at most `cap` bytes, and
    `most` slots, which is all that requests can use. Raises ConfigError if there is not enough room.
    """
    given = config.max_total_token_num
    if given is not None and given * per_token > room:
        raise ConfigError(
            f"--max_total_token_num={given} needs {gib(given * per_token)}, and {gib(max(room, 0))} are left for the "
            f"KV pool; use at most {max(int(room // per_token), 0)}, or raise --mem_fraction={config.mem_fraction}"
        )
    tokens = given or min(int(min(room, cap) // per_token), most)
    if tokens < 1:
        raise ConfigError(
            f"--mem_fraction={config.mem_fraction} of the memory leaves no room for a KV pool beside weights and "
            "the largest step; raise it, lower --batch_max_tokens, or use more ranks (--tp)"
        )
    return tokens
