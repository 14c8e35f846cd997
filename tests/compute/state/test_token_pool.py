import torch

from lightllm.compute.state.layer_state import LayerState, TokenPart
from lightllm.compute.state.token_pool import TokenPool

KV = LayerState({"keys": TokenPart((2, 8), 0), "values": TokenPart((2, 8), 0)})
LATENT = LayerState({"latents": TokenPart((20,), None)})


def test_bytes_per_token():
    assert KV.bytes_per_token(torch.float32) == 2 * 2 * 8 * 4
    assert LATENT.bytes_per_token(torch.bfloat16) == 20 * 2


def test_a_pool_has_one_slot_beyond_those_it_lends():
    pool = TokenPool([KV, LATENT], 10, torch.float32, torch.device("cpu"))
    assert pool.hold_slot == 10
    assert {name: tensor.shape for name, tensor in pool.layers[0].items()} == {"keys": (11, 2, 8), "values": (11, 2, 8)}
    assert pool.layers[1]["latents"].shape == (11, 20)
