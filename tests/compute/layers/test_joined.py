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
def calls(monkeypatch):
    """How often each joined op was called."""
    counted = Counter()

    def counting(op):
        def call(*arguments):
            counted[op.name] += 1
            return op.reference(*arguments)

        return Implementation("counting", call, lambda facts: None)

    for op in JOINED:
        monkeypatch.setattr(op, "implementations", [counting(op)])
    yield counted
    monkeypatch.undo()
    kernels.load(Facts(CPU, torch.float32))


@pytest.mark.parametrize("name", MODELS)
def test_matches_transformers(twins, calls, name):
    check(twins[name], "chunked")
    steps = 2 * len(STEPS["chunked"])  # the driver computes each twice
    sums = 2 * LAYERS - 1 if name != "narrow heads" else LAYERS
    assert calls["gated_linear_of_weighted"] == steps * LAYERS
    assert calls["linear_add_weigh"] == steps * sums
    assert calls["linear_rotate_store"] == (0 if name == "narrow heads" else steps * LAYERS)


def test_ranks_that_share_a_sum_do_not_join_it(twins, calls):
    check_ranks(twins["head norms"], 2)
    assert set(calls) == {"linear_rotate_store"}


def test_many_tokens_are_not_joined(twins, calls, monkeypatch):
    monkeypatch.setattr("lightllm.compute.layers.linear.MOST_TOKENS", 1)
    check(twins["plain"], "whole")
    assert not calls
