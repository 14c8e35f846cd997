from pathlib import Path

import torch

from lightllm.compute.execution.loading import Blueprint
from lightllm.compute.execution.shortened import shortened
from tests.compute.execution.checkpoint import SIZES


def test_a_shortened_model_has_one_block_of_each_kind_and_the_last_and_is_whole_again():
    raw = SIZES | {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 6, "rms_norm_eps": 1e-6}
    model = Blueprint(Path(), raw, torch.device("cpu"), torch.float32, 100).build()
    blocks = list(model.model.layers)
    for i in (1, 4):
        blocks[i].self_attn.window = 10
    with shortened(model):
        assert {id(block) for block in model.model.layers} == {id(blocks[i]) for i in (0, 1, 5)}
        assert model.model.layers[-1] is blocks[-1]
    assert list(model.model.layers) == blocks
