import pytest

from lightllm.bench.kernels.model_sizes import Heads, Product, of
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
