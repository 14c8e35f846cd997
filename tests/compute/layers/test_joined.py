"""Where ops that join products with their neighbours have kernels, blocks compute the same through them."""

from collections import Counter

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from lightllm.compute import kernels, ops
from lightllm.compute.ops.op import Facts, Implementation
from tests.compute.driver import CPU
from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make

JOINED = (ops.linear_add_weigh, ops.gated_linear_of_weighted, ops.linear_rotate_store)
WIDE = SIZES | {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 128}
MODELS = {
    "plain": lambda: LlamaForCausalLM(LlamaConfig(**WIDE)),
    "head norms": lambda: Qwen3ForCausalLM(Qwen3Config(**WIDE)),
    "biases": lambda: Qwen2ForCausalLM(Qwen2Config(**WIDE | {"hidden_size": 256})),
    "narrow heads": lambda: LlamaForCausalLM(LlamaConfig(**WIDE | {"head_dim": 32})),
}
LAYERS = SIZES["num_hidden_layers"]


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return {name: make(model(), tmp_path_factory.mktemp("joined")) for name, model in MODELS.items()}


@pytest.fixture
def counted(monkeypatch):
    """Gives ops an implementation, its reference, and says how often each was called."""
    calls = Counter()

    def counting(op):
        def call(*arguments):
            calls[op.name] += 1
            return op.reference(*arguments)

        return Implementation("counting", call, lambda facts: None)

    def count(*ops):
        for op in ops:
            monkeypatch.setattr(op, "implementations", [counting(op)])
        return calls

    yield count
    monkeypatch.undo()
    kernels.load(Facts(CPU, torch.float32))


@pytest.fixture
def calls(counted):
    return counted(*JOINED)


@pytest.mark.parametrize("name", MODELS)
def test_matches_transformers(twins, calls, name):
    check(twins[name], "chunked")
    steps = 2 * len(STEPS["chunked"])  # the driver computes each twice
    sums = 2 * LAYERS - 1 if name != "narrow heads" else LAYERS
    assert calls["gated_linear_of_weighted"] == steps * LAYERS
    assert calls["linear_add_weigh"] == steps * sums
    assert calls["linear_rotate_store"] == (0 if name == "narrow heads" else steps * LAYERS)


def test_products_that_are_not_joined_leave_parts(twins, counted):
    calls = counted(*JOINED, ops.linear_in_parts)
    check(twins["narrow heads"], "chunked")
    steps = 2 * len(STEPS["chunked"])
    assert calls["linear_in_parts"] == calls["linear_add_weigh"] == steps * LAYERS


def test_ranks_that_share_a_sum_do_not_join_it(twins, calls):
    check_ranks(twins["head norms"], 2)
    assert set(calls) == {"linear_rotate_store"}


@pytest.mark.parametrize("name", ["plain", "biases"])
def test_products_that_are_added_to_the_residual_match_transformers(twins, counted, name):
    calls = counted(ops.linear_add, ops.rms_norm)
    check(twins[name], "chunked")
    steps = 2 * len(STEPS["chunked"])
    assert calls["linear_add"] == steps * 2 * LAYERS
    assert calls["rms_norm"] == steps * (2 * LAYERS + 1), "what was added is only normed"


def test_ranks_that_share_a_sum_add_it_after_summing(twins, counted):
    calls = counted(ops.linear_add)
    check_ranks(twins["plain"], 2)
    assert not calls
