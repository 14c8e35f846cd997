import json

import pytest

from lightllm.bench.kernels.model_sizes import Heads, Mixture, Product, of
from tests import tiny_checkpoint


@pytest.mark.parametrize("tp", [1, 2])
def test_a_model_has_each_of_its_products_and_heads_once(tmp_path, tp):
    # hidden 64, feed-forward 128, 4 heads and 2 key heads of 16, vocabulary 700
    sizes = of(tiny_checkpoint.write(tmp_path), tp=tp)
    expected = {
        Product(8 * 16 // tp, 64, gated=False),  # qkv
        Product(64, 64 // tp, gated=False),  # o
        Product(256 // tp, 64, gated=True),  # gate and up
        Product(64, 128 // tp, gated=False),  # down
        Product(700 // tp, 64, gated=False),  # head
    }
    assert set(sizes.products) == expected
    assert sizes.heads == (Heads(4 // tp, 2 // tp, 16),)


@pytest.mark.parametrize(
    ("quantization", "tp", "mixtures"),
    [
        (None, 1, {Mixture(8, 2, 256, 256, bits=16)}),
        (None, 2, {Mixture(8, 2, 256, 128, bits=16)}),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 2, {Mixture(8, 2, 256, 128, bits=8)}),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 4, set()),  # a rank's share ends inside a tile
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, 1, set()),
    ],
)
def test_a_model_has_each_of_its_mixtures_once(tmp_path, quantization, tp, mixtures):
    directory = tiny_checkpoint.write(tmp_path)
    config = json.loads((directory / "config.json").read_text())
    config |= {"architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 256, "head_dim": 64, "num_key_value_heads": 4}
    config |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": True}
    config |= {"quantization_config": quantization}
    (directory / "config.json").write_text(json.dumps(config))
    assert set(of(directory, tp=tp).mixtures) == mixtures
