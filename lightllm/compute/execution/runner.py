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
from lightllm.compute.execution.graphs import CudaRecorder, Graphs, Sampling, sizes_up_to
from lightllm.compute.execution.largest_step import largest_steps
from lightllm.compute.execution.launched import Launched, Stopwatch
from lightllm.compute.execution.loading import Progress, choose_device, load
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.transfers import Download, Upload
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.parallel.process_group import join
from lightllm.compute.sampling.sampler import Logprobs, Sampler
from lightllm.compute.state.token_pool import TokenPool


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
        self._upload, self._stopwatch = Upload(self._device), Stopwatch()
        # Copies what was sampled to the host; before that, records graphs.
        self._side_stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._token_bytes = 4 + sum(state.bytes_per_token(self._loaded.state_dtype) for state in self._model.states())
        self.memory: list[tuple[str, int]] = [("weights", self._loaded.weight_bytes)]
        self.pool_tokens = self._fit_pool(available)
        with memory.explained(f"making a KV pool of {self.pool_tokens} tokens", "lower --mem_fraction"):
            self._make_pool(self.pool_tokens)
            self._make_graphs()

    def step(self, plan: StepPlan) -> StepResult:
        """Computes a plan and waits for it."""
        return self.launch(plan).result()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Computes a plan. On CUDA nothing waits for the device: the next one may be launched before this has ended.

        Log-probabilities are known on rank 0 only.
        """
        started = time.perf_counter()
        if self._group.rank == 0 and len(plan.begins):
            self._sampler.begin(plan.begins, plan.stop_tokens)
        which = np.flatnonzero(plan.samples)
        replayed = self._graphs.run(plan) if self._graphs is not None else None
        sampling = replayed or self._compute(plan)
        outcome, logprobs = (), None
        if len(which):
            tokens, logprobs = self._sample(plan, sampling, which)
            outcome = (tokens,) if logprobs is None else (tokens, logprobs.chosen, logprobs.top_tokens, logprobs.top)
        return Launched(
            plan,
            Download(outcome, self._side_stream),
            which=which,
            logprobs_of=None if logprobs is None else logprobs.which,
            started=started,
            stopwatch=self._stopwatch,
        )

    def _compute(self, plan: StepPlan) -> Sampling:
        """Any step."""
        step = batch.build(plan, self._rows, self._upload)
        return Sampling(self._model(step.batch), step.row, step.length)

    def _sample(self, plan: StepPlan, sampling: Sampling, which: np.ndarray) -> tuple[Tensor, Logprobs | None]:
        """The next tokens of the sequences `which`, the same on all ranks; the rows remember them."""
        logits = self._model.logits(sampling.hidden)
        tokens, logprobs = torch.empty_like(sampling.row), None
        if self._group.rank == 0:
            lengths = (plan.starts + plan.counts)[which]
            on_device = sampling.row, sampling.length
            tokens, logprobs = self._sampler.sample(logits, plan.rows[which], lengths, on_device)
        tokens = self._group.broadcast(tokens)
        self._rows.last_token.index_copy_(0, sampling.row, tokens)
        return tokens, logprobs

    # ---- memory ----

    def _make_pool(self, slots: int) -> None:
        """A KV pool, and what depends on its size; no graphs yet."""
        self._graphs: Graphs | None = None
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

    def _make_graphs(self) -> None:
        """Graphs of decode steps, for the pool as it is."""
        config, stream = self._config, self._side_stream
        if stream is None or config.disable_cudagraph or config.allow_reference_ops:
            return
        sizes = sizes_up_to(min(self._num_rows, config.graph_max_batch_size))
        with torch.inference_mode():
            self._graphs = Graphs(
                self._model, self._rows, self._pool.hold_slot, sizes, upload=self._upload, record=CudaRecorder(stream)
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
        with memory.explained("capturing CUDA graphs", "lower --graph_max_batch_size"):
            graph_bytes = memory.kept_by(self._make_graphs, self._device)
        self._make_pool(1)  # frees the one before, and its graphs
        table_bytes = Rows.table_bytes(self._num_rows, self._loaded.longest)
        self.memory += [("largest step", step_bytes), ("CUDA graphs", graph_bytes), ("slot table", table_bytes)]
        total = torch.cuda.get_device_properties(self._device).total_memory
        return config.mem_fraction * total - memory.used(self._device) - step_bytes - graph_bytes - table_bytes
