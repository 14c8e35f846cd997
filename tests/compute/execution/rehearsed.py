"""After what is made up at start no step brings a kernel that is not compiled yet. Run by test_rehearsal.py, in a
process of its own: here launching a kernel compiles it for an H200 at most, and runs nothing."""

import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from tests.compute.kernels import hopper  # isort: skip  (changes Triton, so before any kernel)
from lightllm.base.config import EngineConfig
from lightllm.base.request_table import NO_TOKEN_WORDS
from lightllm.base.token_words import mask_of, pack
from lightllm.compute import kernels
from lightllm.compute.execution.graphs import compute_again, sizes_up_to
from lightllm.compute.execution.loading import Blueprint, load
from lightllm.compute.execution.made_up_steps import every_kind_of_step, largest_steps
from lightllm.compute.execution.rehearsal import rehearse
from lightllm.compute.execution.stepper import Stepper
from lightllm.compute.kernels.triton import activation, compiling, launch, matvec_joined
from lightllm.compute.layers.attention import Attention
from lightllm.compute.ops.op import Facts
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.transfers import Upload
from tests.compute.execution.plans import Run, decodes, plan

LONGEST, ROWS, TOKENS, SLOTS, VOCABULARY = 3000, 300, 1200, 4000, 500
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": LONGEST,
}
QWEN = LLAMA | {"architectures": ["Qwen3ForCausalLM"], "num_key_value_heads": 8, "head_dim": 128}
MIXTRAL = LLAMA | {"architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2}
MIXTRAL |= {"sliding_window": None}
MISTRAL = LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": 500}
JOINED = LLAMA | {"hidden_size": 128, "num_attention_heads": 2, "head_dim": 128}
AMPERE = launch.Card((8, 0), 108)
WAYS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.5, "top_k": 5, "top_p": 0.5},
    {"temperature": 1.5, "min_p": 0.2, "num_logprobs": 3},
    {"temperature": 0.0, "repetition_penalty": 1.2, "num_logprobs": 0},
    {"temperature": 0.9, "presence_penalty": 0.2, "min_tokens": 50},
    {"temperature": 1.0, "typical_p": 0.7},
    {"temperature": 0.0, "decay_factor": 1.1, "decay_start": -1},
]
WORDS = [
    NO_TOKEN_WORDS,
    pack(biases=[((1,), 0.5)] * 300, ends=[2], first_mask=mask_of([4], VOCABULARY)),
    pack(biases=[((1, 2, 3, 4), 0.5), ((5, 6), 1.0)], mask=mask_of([4], VOCABULARY)),
]
META, HALF = torch.device("meta"), torch.bfloat16


@pytest.fixture
def noted(monkeypatch):
    """Kernels and what they would be compiled for; nothing is compiled."""
    seen = set()
    monkeypatch.setattr(JITFunction, "_do_compile", lambda self, key, *_: seen.add((self.fn.__name__, key)))
    return seen


def made_up_ones():
    return every_kind_of_step(tokens=TOKENS, rows=ROWS, longest=LONGEST, slots=SLOTS)


def random_plan(draw):
    """Any step that a scheduler may ask for."""
    left, runs = TOKENS, []
    kinds, in_runs = int(draw.integers(4)), bool(draw.integers(2))
    counts = [int(draw.choice([0, 1, 3, 17, 130, 260])) if kinds != 1 else 0]
    counts += [int(draw.choice([1, 2, 5, 20, 70])) if kinds != 2 else 0]
    for row in range(max(sum(counts), 1)):
        count = 1 if row < counts[0] else int(min(draw.choice([2, 7, 15, 16, 30, 100, 700, 2000]), left))
        start = int(draw.choice([0, 1, 50, 900]))
        if count == 0 or start + count > LONGEST:
            continue
        how = WAYS[int(draw.integers(len(WAYS)))] if kinds else WAYS[0]
        begins = {**how, "seed": row, "prompt_length": start + count}
        tokens, slots = [0] * count, draw.integers(0, SLOTS, start + count).tolist()
        slots = list(range(start + count)) if in_runs else slots
        samples, words = bool(draw.integers(8)), WORDS[int(draw.integers(len(WORDS)))]
        runs.append(Run(row, start, tokens, slots, samples, told=0, begins=begins, stop_tokens=[1, 2], words=words))
        left -= count
    return plan(*runs) if runs else random_plan(draw)


def practise(blueprint, plans, noted, graph_sizes=(), mixed_sizes=()):
    return rehearse(
        blueprint,
        Group(),
        plans,
        rows=ROWS,
        longest=LONGEST,
        graph_sizes=graph_sizes,
        mixed_sizes=mixed_sizes,
        kernels=lambda: len(noted),
    )


def test_blocks_alike_are_rehearsed_once(noted, monkeypatch):
    """A model of nine blocks brings the kernels of one of two, at the same cost; blocks of another kind count."""
    kernels.load(Facts(torch.device("cuda"), torch.bfloat16))
    computed, forward = [], Attention.forward

    def counted(self, x, batch):
        computed.append(self)
        return forward(self, x, batch)

    monkeypatch.setattr(Attention, "forward", counted)

    def rehearsed(layers, windows=()):
        noted.clear()
        computed.clear()
        blueprint = Blueprint(Path(), LLAMA | {"num_hidden_layers": layers}, torch.device("cuda"), HALF, LONGEST)
        build = Blueprint.build

        def windowed(self):
            model = build(self)
            for i in windows:
                model.model.layers[i].self_attn.window = 100
            return model

        with monkeypatch.context() as patch:
            patch.setattr(Blueprint, "build", windowed)
            practise(blueprint, itertools.islice(made_up_ones(), 5), [])
        return set(noted), len(computed)

    assert rehearsed(9) == rehearsed(2)
    assert rehearsed(9, windows=(1, 3)) == rehearsed(3, windows=(1,))
    assert rehearsed(2)[0] < rehearsed(3, windows=(1,))[0]


def test_torchs_own_compiler_is_not_imported(noted):
    """It takes seconds, and many operations on tensors without memory ask for it."""
    kernels.load(Facts(torch.device("cuda"), HALF))
    practise(Blueprint(Path(), LLAMA, torch.device("cuda"), HALF, LONGEST), made_up_ones(), noted)
    assert "torch._dynamo" not in sys.modules


@pytest.mark.parametrize(
    ("model", "card"),
    [(LLAMA, hopper.H200), (MISTRAL, hopper.H200), (QWEN, AMPERE), (MIXTRAL, hopper.H200), (JOINED, hopper.H200)],
    ids=["llama", "mistral", "qwen", "mixtral", "joined"],
)
def test_no_step_needs_a_kernel_that_was_not_rehearsed(model, card, noted, monkeypatch):
    monkeypatch.setattr(launch, "card", lambda device: card)
    monkeypatch.setattr(matvec_joined, "LEAST_WIDTH", 0)
    torch.manual_seed(0)
    config = EngineConfig(load_format="dummy")
    blueprint = Blueprint(Path(), model, torch.device("cuda"), torch.bfloat16, LONGEST)
    on_cpu = Blueprint(Path(), model, torch.device("cpu"), torch.bfloat16, LONGEST)
    loaded, _ = load(on_cpu, config, Mesh())
    kernels.load(Facts(torch.device("cuda"), torch.bfloat16))
    needed = practise(blueprint, made_up_ones(), noted, graph_sizes=[1, 256], mixed_sizes=[32, 1024])
    rehearsed = set(noted)
    noted.clear()
    assert practise(blueprint, needed, noted, graph_sizes=[1, 256], mixed_sizes=[32, 1024]) == needed
    assert noted == rehearsed
    expected = {"_attend_decodes", "_attend_chunks", "_draw_chunk", "_sum_chunk"}
    expected |= {"_add", "_gate", "_rotate", "_multiply_gated", "_multiply_rotated"} if model is JOINED else set()
    assert expected <= {kernel for kernel, _ in rehearsed}

    upload = Upload(torch.device("cpu"))
    stepper = Stepper(
        loaded, rows=ROWS, longest=LONGEST, slots=SLOTS, form=blueprint.state_format, group=Group(), upload=upload
    )
    generator = np.random.default_rng(0)

    def meets(step):
        stepper.launch(step)
        assert {kernel for kernel, _ in noted - rehearsed} == set()

    with torch.inference_mode():
        stepper.capture(sizes_up_to(256), compute_again, most_read_again=5000)
        for step in largest_steps(tokens=TOKENS, rows=ROWS, longest=LONGEST):
            meets(step)
        for _ in range(40):
            meets(random_plan(generator))
            rows = generator.permutation(ROWS)[: generator.integers(1, 257)].tolist()
            meets(decodes(rows, [7] * len(rows), [3] * len(rows)))
        stepper.capture_mixed([32, 96, 256, 448, 1024], compute_again)
        for _ in range(10):
            meets(random_plan(generator))


def test_kernels_are_compiled_beside_other_work_and_once(monkeypatch):
    def launched(dtype):
        activation.silu_and_mul(torch.empty(3, 64, dtype=dtype, device=META))

    lines, named, launchers = [], [], []
    monkeypatch.setattr(driver.active, "launcher_cls", lambda source, metadata: launchers.append(source.name))
    with compiling.compiled_beside(
        lambda count: launched(torch.float16), lambda *line: lines.append(line[0] % line[1:])
    ):
        torch.ones(3).sum()
    assert lines[0].startswith("kernels: 1 ")
    assert launchers == ["_silu_and_mul"]
    compiling.tell_of_each(named.append)
    try:
        launched(torch.float16)
        assert named == []
        launched(torch.bfloat16)
        launched(torch.bfloat16)
    finally:
        compiling.tell_of_each(None)
    assert [name.rpartition(".")[2] for name in named] == ["_silu_and_mul"]


def test_what_other_threads_launch_meanwhile_runs(monkeypatch):
    """Weights may need kernels while they are loaded."""
    ran = []

    def run(self, *arguments, grid, warmup, **options):
        ran.append((threading.current_thread().name, not warmup))

    monkeypatch.setattr(JITFunction, "run", run)

    def launched(count):
        activation.silu_and_mul(torch.empty(3, 64, dtype=torch.float16, device=META))
        with ThreadPoolExecutor(1, "other") as other:
            other.submit(activation.silu_and_mul, torch.empty(3, 64, dtype=torch.float16)).result()

    with compiling.compiled_beside(launched, lambda *line: None):
        pass
    assert ran == [(threading.current_thread().name, False), ("other_0", True)]


def test_what_the_compiler_refuses_ends_the_start():
    @triton.jit
    def broken(x):
        tl.store(x, undefined)  # noqa: F821

    with (
        pytest.raises(triton.CompilationError, match="undefined"),
        compiling.compiled_beside(lambda count: broken[(1,)](torch.empty(1, device=META)), lambda *line: None),
    ):
        pass
