"""The two ends of a decoder."""

import pytest
import torch

from lightllm.compute.execution.materialize import materialize
from lightllm.compute.models import registry
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.select import method_for
from lightllm.compute.weights.dummy import Dummy
from tests.compute.driver import CPU
from tests.tiny_checkpoint import CONFIG


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_a_model_of_16_bits_are_not_rounded_to_16_bits(tied):
    model = registry.build(registry.load_config(CONFIG | {"tie_word_embeddings": tied})[1])
    materialize(model, Dummy(), mesh=Mesh(), dtype=torch.bfloat16, device=CPU, method_for=method_for(None))
    hidden = torch.randn(5, CONFIG["hidden_size"], generator=torch.Generator().manual_seed(0)).bfloat16()
    head = model.model.embed_tokens.weight if tied else model.lm_head.tensors["weight"]
    logits = model.logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), hidden.double() @ head.double().T, rtol=1e-5, atol=1e-6)
