"""A model without a checkpoint: random weights of the right shapes, the same on ranks that hold the same."""

import pytest
import torch

from lightllm.compute.execution.materialize import materialize
from lightllm.compute.models import registry
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.select import method_for
from lightllm.compute.weights.dummy import Dummy
from tests.compute.driver import CPU, run, tensor_mesh
from tests.compute.quant.formats import CONFIGS
from tests.compute.ranks import ThreadRanks

CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 64,
}
TOKENS = [torch.arange(9)]


def model_on(mesh, quantization=None):
    model = registry.build(registry.load_config(CONFIG)[1])
    methods = method_for(quantization)
    materialize(model, Dummy(), mesh=mesh, dtype=torch.float32, device=CPU, method_for=methods)
    return model


@pytest.mark.parametrize("form", [None, *CONFIGS])
def test_computes_finite_numbers(form):
    logits = run(model_on(Mesh(), CONFIGS[form][1] if form else None), TOKENS, [[9]])[0]
    assert logits.isfinite().all()
    assert logits.std() > 0


def test_ranks_agree():
    first, second = ThreadRanks(2).run(lambda group: run(model_on(tensor_mesh(group)), TOKENS, [[9]])[0])
    torch.testing.assert_close(first, second)
