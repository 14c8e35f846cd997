"""Heads that give vectors."""

from functools import partial

import pytest
import torch

from lightllm.compute.execution.materialize import materialize
from lightllm.compute.layers.heads import Labels, Reward
from lightllm.compute.models import registry
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.quant.select import method_for
from lightllm.compute.weights.dummy import Dummy
from tests.compute.driver import CPU
from tests.tiny_checkpoint import CONFIG


@pytest.mark.parametrize("quant_type", ["w8a8", "fp8w8a8-b128", "ao-w4a16-32"])
@pytest.mark.parametrize("head", [Reward, partial(Labels, labels=3)])
def test_a_head_is_exact_in_a_quantized_model(head, quant_type):
    hidden, answers = torch.randn(5, CONFIG["hidden_size"], generator=torch.Generator().manual_seed(0)), []
    for name in ("none", quant_type):
        model = registry.build(registry.load_config(CONFIG)[1])
        model.replace_head(head(CONFIG["hidden_size"]))
        methods = method_for(None, quant_type=name)
        materialize(model, Dummy(), mesh=Mesh(), dtype=torch.float32, device=CPU, method_for=methods)
        answers.append(model.vectors(hidden))
    torch.testing.assert_close(*answers, atol=0, rtol=0)
