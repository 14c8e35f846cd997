"""How long processes look for news of a step before they sleep.

To be woken takes 50 to 100 us and finds caches cold, several times on the way of a plan and its result; to look takes a
core each. Where nothing is asked of the engine, all sleep.
"""

import os
from pathlib import Path

from lightllm.base.config import EngineConfig

_SECONDS = 0.02  # of longer steps waking is a small part
_CORES_A_PROCESS = 2  # with fewer, who looks may take time from who works; nine for four processes were enough
_GROUP = Path("/sys/fs/cgroup")


def seconds(config: EngineConfig, *, is_on_gpu: bool, cores: float) -> float:
    """For workers, scheduler, detokenizer and an offline client; 0: they sleep at once."""
    if config.awake_s is not None:
        return config.awake_s
    processes = config.tp + 3
    return _SECONDS if is_on_gpu and cores >= _CORES_A_PROCESS * processes else 0.0


def available_cores(group: Path = _GROUP) -> float:
    """That this process may use, by its affinity and by the quota of its control group, of either version."""
    affinity = float(len(os.sched_getaffinity(0)))
    try:
        if (both := group / "cpu.max").exists():
            quota, period = both.read_text().split()
        else:
            quota, period = ((group / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:
        return affinity
    is_limited = quota.strip() not in ("max", "-1")
    return min(affinity, int(quota) / int(period)) if is_limited else affinity
