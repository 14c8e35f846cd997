"""A trace of what one rank computes between two moments, for chrome://tracing or Perfetto."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lightllm.base.errors import ConfigError
from lightllm.base.step import StepPlan


class Profiler:
    """torch's profiler of this process's thread and, on CUDA, of the device. One trace at a time."""

    def __init__(self, folder: str, rank: int):
        """Raises ConfigError if nothing can be written to `folder`, which is made if it is not there."""
        self._folder, self._rank = Path(folder), rank
        self._profile: profile | None = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--profile_dir={folder}: {error.strerror}; give a folder that can be written to"
            ) from None
        if not os.access(self._folder, os.W_OK):
            raise ConfigError(f"--profile_dir={folder} cannot be written to; give another folder")

    def why_not(self, *, starts: bool) -> str | None:
        """Why a trace cannot be started, or stopped, now."""
        if starts and self._profile is not None:
            return "a trace is being taken already; stop it first with /stop_profile"
        if not starts and self._profile is None:
            return "no trace is being taken; start one first with /start_profile"
        return None

    def start(self) -> None:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self._profile = profile(activities=activities)
        self._profile.start()

    def stop(self) -> str:
        """Writes the trace and returns its path. Waits for what the device still computes. Raises OSError."""
        assert self._profile is not None, "why_not was asked"
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ended, self._profile = self._profile, None
        ended.stop()
        path = self._folder / f"{time.strftime('%Y%m%d-%H%M%S')}-rank{self._rank}.trace.json.gz"
        ended.export_chrome_trace(str(path))
        return str(path)

    @contextmanager
    def step(self, plan: StepPlan) -> Iterator[None]:
        """Names a step in the trace, if one is being taken."""
        if self._profile is None:
            yield
            return
        with record_function(f"step: {len(plan.rows)} sequences, {int(plan.counts.sum())} tokens"):
            yield
