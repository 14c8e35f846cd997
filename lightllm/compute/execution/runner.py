"""Runs steps on one rank's device: loads the model, measures how large the pool may be, launches plans."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from lightllm.base import log
from lightllm.base.config import EngineConfig
from lightllm.base.step import StepPlan, StepResult
from lightllm.compute import kernels
from lightllm.compute.execution import made_up_steps, memory, mixed_graphs
from lightllm.compute.execution.grammar_masks import GrammarMasks
from lightllm.compute.execution.graphs import Compute, CudaRecorder, sizes_up_to
from lightllm.compute.execution.launched import Launched, Stopwatch
from lightllm.compute.execution.loading import Progress, choose_device, load, read_blueprint
from lightllm.compute.execution.rehearsal import rehearse
from lightllm.compute.execution.rows import Rows
from lightllm.compute.execution.shortened import shortened
from lightllm.compute.execution.stepper import Stepper
from lightllm.compute.layers.decoder import CausalLM
from lightllm.compute.ops.op import Facts
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.parallel.process_group import join
from lightllm.compute.transfers import Download, Upload

_log = log.get(__name__)
# Graphs are captured once the pool is there. How much memory they need is found out before, from one of so many sizes.
_GRAPHS_APART = 8
_GRAPHS_MARGIN = 32 << 20


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
        self._num_rows = min(config.running_max_req_size, config.batch_max_tokens)
        self._upload, self._stopwatch = Upload(self._device), Stopwatch()
        self._blueprint = read_blueprint(config, self._device)
        self._warm_up: list[StepPlan] = []  # steps that launch all kernels once
        self._model, weight_bytes = self._load_beside_compiling(progress)
        form = self._blueprint.state_format
        self._token_bytes = 4 + sum(state.bytes_per_token(form) for state in self._model.states())
        self.memory: list[tuple[str, int]] = [("weights", weight_bytes)]
        self.pool_tokens = self._make_pool(available, weight_bytes)

    def step(self, plan: StepPlan) -> StepResult:
        """Computes a plan and waits for it."""
        return self.launch(plan).result()

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        """Computes a plan. On CUDA nothing waits for the device: the next one may be launched before this has ended.

        Log-probabilities are known on rank 0 only.
        """
        started = time.perf_counter()
        outcome = self.stepper.launch(plan)
        return Launched(
            plan,
            Download(outcome.tensors, self._device),
            which=outcome.which,
            logprobs_of=None if outcome.logprobs is None else outcome.logprobs.which,
            has_scores=outcome.scores is not None,
            has_vectors=outcome.vectors is not None,
            started=started,
            stopwatch=self._stopwatch,
        )

    @property
    def is_on_gpu(self) -> bool:
        return self._device.type == "cuda"

    @property
    def graph_tokens(self) -> int:
        """Most tokens of a step, whatever it runs, that is recorded; 0 if none is."""
        return max(self._mixed_sizes, default=0) if self.is_on_gpu else 0

    def use_masks(self, masks: GrammarMasks) -> None:
        """From now on sampling waits for what grammars allow."""
        self.stepper.masks = masks

    def tell_of_compiling(self, listener: Callable[[str], None] | None) -> None:
        """From now on `listener` is called with the name of each kernel that has to be compiled. None is expected:
        while one is, requests wait."""
        if self._device.type == "cuda":
            from lightllm.compute.kernels.triton import compiling

            compiling.tell_of_each(listener)

    # ---- weights and kernels ----

    def _load_beside_compiling(self, progress: Progress | None) -> tuple[CausalLM, int]:
        """The model and the bytes of its weights. All kernels are compiled, too."""
        if self._device.type != "cuda" or self._config.allow_reference_ops:
            return self._load(progress)
        with ThreadPoolExecutor(1, "loader") as loader:
            loading = loader.submit(self._load, progress)
            with self._compiling():
                return loading.result()

    def _load(self, progress: Progress | None) -> tuple[CausalLM, int]:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # of this thread
        with memory.explained("loading the weights", "use more ranks (--tp) or a smaller checkpoint"):
            return load(self._blueprint, self._config, Mesh(tensor=self._group), progress)

    def _compiling(self) -> AbstractContextManager[None]:
        """While it lasts kernels are compiled; it ends when all are."""
        from lightllm.compute.kernels.triton.compiling import compiled_beside

        kernels.load(Facts(self._device, self._blueprint.dtype), allow_reference=False)
        longest = self._blueprint.longest
        sizes = [1, self._graph_sizes[-1]] if self._graph_sizes else []
        mixed_sizes = self._mixed_sizes
        plans = made_up_steps.every_kind_of_step(
            tokens=self._config.batch_max_tokens,
            rows=self._num_rows,
            longest=longest,
            slots=self._config.batch_max_tokens,
        )

        def rehearsed(kernels: Callable[[], int]) -> None:
            self._warm_up = rehearse(
                self._blueprint,
                self._group,
                plans,
                rows=self._num_rows,
                longest=longest,
                graph_sizes=sizes,
                mixed_sizes=mixed_sizes[:1] + mixed_sizes[-1:],
                kernels=kernels,
            )

        return compiled_beside(rehearsed, _log.info)

    @property
    def _graph_sizes(self) -> list[int]:
        """Sequences of the decode steps that are recorded. Graphs end at the last tokens' hidden states."""
        has_other_ends = self._blueprint.task.pooling != "last"
        if self._config.disable_cudagraph or self._config.allow_reference_ops or has_other_ends:
            return []
        return sizes_up_to(min(self._num_rows, self._config.graph_max_batch_size))

    @property
    def _mixed_sizes(self) -> list[int]:
        """Tokens of the other steps that are recorded."""
        if not self._graph_sizes:
            return []
        most = min(self._config.batch_max_tokens, self._config.graph_max_tokens)
        return sizes_up_to(most, mixed_graphs.GAPS)

    # ---- memory ----

    def _stepper_with(self, slots: int, longest: int | None = None) -> Stepper:
        """What runs steps with a pool of this size; no graphs yet. longest: of a row, if not what fits the pool."""
        blueprint = self._blueprint
        return Stepper(
            self._model,
            rows=self._num_rows,
            longest=longest or min(blueprint.longest, slots),
            slots=slots,
            form=blueprint.state_format,
            group=self._group,
            upload=self._upload,
        )

    def _capture(self, every: int = 1, note: Callable[[], object] = lambda: None) -> None:
        """Graphs for the pool as it is, of each `every`-th size down from the largest. note: called after each."""
        if not self._graph_sizes:
            return
        recorder = CudaRecorder(self._device, partial(shortened, self._model))

        def record(compute: Compute) -> tuple[Callable[[], None], Tensor]:
            recorded = recorder(compute)
            note()
            return recorded

        with torch.inference_mode():
            # Those that need more memory first, which the others then use too.
            if self._mixed_sizes:
                self.stepper.capture_mixed(self._mixed_sizes[::-every], record)
            again = self._config.graph_max_read_again
            self.stepper.capture(self._graph_sizes[::-every], record, most_read_again=again)

    def _make_pool(self, available: int, weight_bytes: int) -> int:
        """Makes what runs steps, with as many slots as there is room for, and its graphs. Returns how many slots.

        Adds to `memory` what is counted on the way.
        """
        if self._device.type == "cuda":
            return self._make_pool_and_graphs(*self._room_beside_largest_step())
        room = self._config.mem_fraction * available / self._config.tp - weight_bytes
        return self._make_stepper(room, cap=memory.CPU_POOL_BYTES / self._config.tp)

    def _make_pool_and_graphs(self, room: float, expected: int) -> int:
        """The same within `room` bytes, of which graphs are expected to take so many. Where they take more, which is
        known when they are there, all ranks begin again."""
        while True:
            tokens = self._make_stepper(room - expected)
            with memory.explained("capturing CUDA graphs", "lower --graph_max_batch_size or --graph_max_tokens"):
                graph_bytes = memory.kept_by(self._capture, self._device)
            if self._least(int(room) - tokens * self._token_bytes - graph_bytes) >= 0:
                self.memory.insert(-1, ("CUDA graphs", graph_bytes))
                return tokens
            expected = max(expected, graph_bytes + _GRAPHS_MARGIN)
            self.stepper = self._stepper_with(1)  # frees the one before, and its graphs
            self.memory.pop()

    def _make_stepper(self, room: float, *, cap: float = math.inf) -> int:
        """With the slots that `room` bytes hold on all ranks, `cap` bytes at most; says how many."""
        config, most = self._config, self._num_rows * self._blueprint.longest
        tokens = memory.pool_tokens(config, room=room, per_token=self._token_bytes, most=most, cap=cap)
        tokens = self._least(tokens)
        with memory.explained(f"making a KV pool of {tokens} tokens", "lower --mem_fraction"):
            self.stepper = self._stepper_with(tokens)
        is_capped = config.max_total_token_num is None and tokens == cap // self._token_bytes
        note = f", limited to {memory.gib(cap)} on a CPU" if is_capped else ""
        self.memory.append((f"KV pool, {tokens} tokens{note}", tokens * self._token_bytes))
        return tokens

    def _least(self, count: int) -> int:
        """The least of all ranks' counts."""
        return int(self._group.gather_last(torch.tensor([count], device=self._device)).min())

    def _room_beside_largest_step(self) -> tuple[float, int]:
        """Bytes of a CUDA device that may go to the pool and the graphs, and about how many the graphs will take."""
        config, tokens, longest = self._config, self._config.batch_max_tokens, self._blueprint.longest
        with memory.explained("running the largest step", "lower --batch_max_tokens or --running_max_req_size"):
            self.stepper = self._stepper_with(tokens, longest)
            before = memory.used(self._device)
            with shortened(self._model):
                for plan in self._warm_up:
                    self.step(plan)
            kernel_bytes = memory.used(self._device) - before
            plans = made_up_steps.largest_steps(tokens=tokens, rows=self._num_rows, longest=longest)
            step_bytes = memory.peak_of(lambda: [self.step(plan) for plan in plans], self._device)
        with memory.explained("capturing CUDA graphs", "lower --graph_max_batch_size or --graph_max_tokens"):
            graph_bytes = self._graph_bytes()
        self.stepper = self._stepper_with(1)  # frees the one before, and its graphs
        table_bytes = Rows.table_bytes(self._num_rows, longest)
        self.memory += [
            ("kernels and libraries", kernel_bytes),
            ("largest step", step_bytes),
            ("slot table", table_bytes),
        ]
        total = torch.cuda.get_device_properties(self._device).total_memory
        room = config.mem_fraction * total - memory.used(self._device) - step_bytes - table_bytes
        return room, graph_bytes

    def _graph_bytes(self) -> int:
        """About how much memory all graphs will keep, rather more than less: some are captured. The first one has what
        the others use, too; what those keep by themselves is counted for the rest."""
        used = [memory.used(self._device)]
        self._capture(_GRAPHS_APART, lambda: used.append(memory.used(self._device)))
        if len(used) == 1:
            return 0
        return used[-1] - used[0] + max(used[-1] - used[1], 0) * (_GRAPHS_APART - 1) + _GRAPHS_MARGIN
