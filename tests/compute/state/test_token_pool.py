import torch

from lightllm.compute.state.layer_state import Format, LayerState, TokenPart
from lightllm.compute.state.token_pool import TokenPool

KV = LayerState({"keys": TokenPart((2, 8), 0), "values": TokenPart((2, 8), 0)})
LATENT = LayerState({"latents": TokenPart((20,), None)})


def test_bytes_per_token():
    assert KV.bytes_per_token(Format(torch.float32)) == 2 * 2 * 8 * 4
    assert LATENT.bytes_per_token(Format(torch.bfloat16)) == 20 * 2


def test_a_pool_has_one_slot_beyond_those_it_lends():
    pool = TokenPool([KV, LATENT], 10, Format(torch.float32), torch.device("cpu"))
    assert pool.hold_slot == 10
    assert {name: tensor.shape for name, tensor in pool.layers[0].items()} == {"keys": (11, 2, 8), "values": (11, 2, 8)}
    assert pool.layers[1]["latents"].shape == (11, 20)


def test_8_bits_and_a_scale_a_head_hold_nearly_twice_the_tokens():
    for state in (
        LayerState({"keys": TokenPart((8, 128), 0), "values": TokenPart((8, 128), 0)}),
        LayerState({"latents": TokenPart((576,), None)}),
    ):
        wide = state.bytes_per_token(Format(torch.bfloat16))
        assert wide >= 1.9 * state.bytes_per_token(Format(torch.float8_e4m3fn, scaled=True))
        assert wide >= 3.7 * state.bytes_per_token(Format(torch.uint8, packed=2, scaled=True))


def test_scales_are_kept_beside_what_they_scale():
    pool = TokenPool([KV], 10, Format(torch.uint8, packed=2, scaled=True), torch.device("cpu"))
    shapes = {name: (tensor.dtype, tensor.shape) for name, tensor in pool.layers[0].items()}
    assert shapes["keys"] == (torch.uint8, (11, 2, 4))
    assert shapes["keys_scale"] == (torch.float32, (11, 2))
