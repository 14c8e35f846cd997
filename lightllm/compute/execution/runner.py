"""Runs steps on one rank's device: owns the model, the KV pool, the rows and the sampler."""

import math
import time

import numpy as np
import torch
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from lightllm.base.config import EngineConfig
from lightllm.base.step import StepPlan, StepResult
from lightllm.compute.execution import batch, memory
from lightllm.compute.execution.largest_step import largest_steps
from lightllm.compute.execution.loading import Progress, choose_device, load
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.transfers import Upload, fetch
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.parallel.process_group import join
from lightllm.compute.sampling.sampler import Logprobs, Sampler
from lightllm.compute.state.token_pool import TokenPool

_NO_LOGPROBS = np.zeros(0, np.float32), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32)


class Runner:
    """One of `config.tp` ranks. `store`: where ranks meet, None if there is only one.

    Every rank is given the same plans in the same order. Rank 0 samples and the others are sent what it sampled.
    memory: what the device's memory is used for, in bytes. pool_tokens: slots of the KV pool, the same on all ranks.
    """

    def __init__(
        self, config: EngineConfig, *, rank: int = 0, store: Store | None = None, progress: Progress | None = None
    ):
        """Raises ConfigError if the checkpoint, the device or its memory do not do."""
        self._config, self._device = config, choose_device(config, rank)
        self._group = Group()
        if config.tp > 1:
            assert store is not None, "ranks need a place to meet"
            self._group = join(store, rank=rank, ranks=config.tp, device=self._device)
        available = memory.available(self._device)
        with memory.explained("loading the weights", "use more ranks (--tp) or a smaller checkpoint"):
            self._loaded = load(config, Mesh(tensor=self._group), self._device, progress)
        self._model = self._loaded.model
        self._num_rows = min(config.running_max_req_size, config.batch_max_tokens)
        self._upload = Upload(self._device)
        self._token_bytes = 4 + sum(state.bytes_per_token(self._loaded.state_dtype) for state in self._model.states())
        self.memory: list[tuple[str, int]] = [("weights", self._loaded.weight_bytes)]
        self.pool_tokens = self._fit_pool(available)
        with memory.explained(f"making a KV pool of {self.pool_tokens} tokens", "lower --mem_fraction"):
            self._make_pool(self.pool_tokens)

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepResult:
        """Computes a plan. Log-probabilities are known on rank 0 only."""
        started = time.perf_counter()
        if self._group.rank == 0 and len(plan.begins):
            self._sampler.begin(plan.begins, plan.stop_tokens)
        hidden = self._model(batch.build(plan, self._rows, self._upload))
        which = np.flatnonzero(plan.samples)
        tokens, logprobs = self._sample(plan, hidden, which) if len(which) else (None, None)
        return _result(plan, which, tokens, logprobs, started)

    def _sample(self, plan: StepPlan, hidden: Tensor, which: np.ndarray) -> tuple[Tensor, Logprobs | None]:
        """The next tokens of the sequences `which`, the same on all ranks; the rows remember them."""
        last = np.cumsum(plan.counts)[which] - 1
        at, row = self._upload.together(last, plan.rows[which])
        logits = self._model.logits(hidden.index_select(0, at))
        tokens, logprobs = torch.empty_like(row), None
        if self._group.rank == 0:
            lengths = (plan.starts + plan.counts)[which]
            tokens, logprobs = self._sampler.sample(logits, plan.rows[which], lengths)
        tokens = self._group.broadcast(tokens)
        self._rows.last_token.index_copy_(0, row, tokens)
        return tokens, logprobs

    # ---- memory ----

    def _make_pool(self, slots: int) -> None:
        """A KV pool, and what depends on its size."""
        self._pool = TokenPool(self._model.states(), slots, self._loaded.state_dtype, self._device)
        self._pool.bind(self._model)
        self._rows = Rows(self._num_rows, min(self._loaded.longest, slots), slots, self._device)
        self._sampler = Sampler(
            rows=self._num_rows,
            vocab=self._model.vocab,
            device=self._device,
            upload=self._upload,
            context=self._rows.context,
        )

    def _fit_pool(self, available: int) -> int:
        """Slots of the pool, the same on all ranks. Adds to `memory` what is counted on the way."""
        config, longest = self._config, self._loaded.longest
        if self._device.type == "cuda":
            room, cap = self._room_beside_largest_step(), math.inf
        else:
            room = config.mem_fraction * available / config.tp - self._loaded.weight_bytes
            cap = memory.CPU_POOL_BYTES / config.tp
        most = self._num_rows * longest
        tokens = memory.pool_tokens(config, room=room, per_token=self._token_bytes, most=most, cap=cap)
        tokens = int(self._group.gather_last(torch.tensor([tokens], device=self._device)).min())
        is_capped = config.max_total_token_num is None and tokens == cap // self._token_bytes
        note = f", limited to {memory.gib(cap)} on a CPU" if is_capped else ""
        self.memory.append((f"KV pool, {tokens} tokens{note}", tokens * self._token_bytes))
        return tokens

    def _room_beside_largest_step(self) -> float:
        """Bytes of a CUDA device that may go to the pool."""
        config, tokens = self._config, self._config.batch_max_tokens
        with memory.explained("running the largest step", "lower --batch_max_tokens or --running_max_req_size"):
            self._make_pool(tokens)
            plans = largest_steps(tokens=tokens, rows=self._num_rows, longest=self._rows.longest)
            step_bytes = memory.peak_of(lambda: [self.step(plan) for plan in plans], self._device)
        self._make_pool(1)  # frees the one before
        table_bytes = 4 * self._num_rows * self._loaded.longest
        self.memory += [("largest step", step_bytes), ("slot table", table_bytes)]
        total = torch.cuda.get_device_properties(self._device).total_memory
        return config.mem_fraction * total - memory.used(self._device) - step_bytes - table_bytes


def _result(
    plan: StepPlan, which: np.ndarray, tokens: Tensor | None, logprobs: Logprobs | None, started: float
) -> StepResult:
    """Waits for the device. `which`: the sequences that tokens [n] belong to."""
    sampled = np.full(len(plan.rows), -1, np.int32)
    known = _NO_LOGPROBS
    if tokens is not None and logprobs is not None:
        sampled[which], *fetched = fetch(tokens, logprobs.chosen, logprobs.top_tokens, logprobs.top)
        known = [_spread(values, which[logprobs.which], len(sampled)) for values in fetched]
    elif tokens is not None:
        (sampled[which],) = fetch(tokens)
    return StepResult(plan.step, sampled, *known, seconds=time.perf_counter() - started, next_was_ready=False)


def _spread(values: np.ndarray, which: np.ndarray, count: int) -> np.ndarray:
    """values [n, ...] at places `which` of [count, ...], zeros elsewhere; 32-bit."""
    out = np.zeros((count, *values.shape[1:]), np.int32 if values.dtype.kind == "i" else np.float32)
    out[which] = values
    return out
