"""Keys and values of fewer bits: near what floats give, and the same however a sequence was computed."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.base.config import EngineConfig, kv_type_of
from lightllm.base.errors import ConfigError
from lightllm.compute.execution.loading import STATE_FORMATS
from lightllm.compute.ops.kv_formats import dequantized, quantized
from tests.compute.driver import load, run, tensor_mesh
from tests.compute.models.twins import SIZES, STEPS, make
from tests.compute.quant.test_formats import MODELS
from tests.compute.ranks import ThreadRanks

# Of the whole of the logits; random weights, made larger, spread errors further than trained ones.
NEAR = {"fp8": 0.25, "int8": 0.08, "int4": 0.9}


@pytest.fixture(scope="module", params=["llama", "deepseek_v3"])
def plain(request, tmp_path_factory):
    models = {"llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)), "deepseek_v3": MODELS["deepseek_v3"]}
    return make(models[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("kind", STATE_FORMATS)
def test_chunks_decodes_and_ranks_give_the_same(plain, kind):
    form = STATE_FORMATS[kind]
    whole = run(load(plain.directory), plain.sequences, STEPS["whole"], form)

    def work(group):
        return run(load(plain.directory, tensor_mesh(group)), plain.sequences, STEPS["chunked"], form)

    for ranks in (1, 2):
        for got in ThreadRanks(ranks).run(work):
            # A number between two neighbours may go to either, after sums in another order.
            difference = torch.cat(got) - torch.cat(whole)
            assert difference.norm() < 0.02 * torch.cat(whole).norm()
    error = (torch.cat(whole) - torch.cat(list(plain.expected))).norm() / torch.cat(list(plain.expected)).norm()
    assert 0 < error < NEAR[kind]


@pytest.mark.parametrize(("kind", "levels"), [("int8", 127), ("int4", 7)])
def test_whole_numbers_are_off_by_half_a_step_at_most(kind, levels):
    x = torch.randn(5, 3, 64)
    form = STATE_FORMATS[kind]
    stored, scale = quantized(x, form.dtype)
    assert (stored.dtype, stored.shape) == (form.dtype, (5, 3, 64 // form.packed))
    step = x.abs().amax(-1) / levels
    torch.testing.assert_close(scale, step)
    assert ((dequantized(stored, scale, torch.float32) - x).abs() <= step.unsqueeze(-1) * 0.5001).all()


def test_modes_of_the_seed_system_name_the_same_formats():
    assert kv_type_of(EngineConfig()) == "bf16"
    assert kv_type_of(EngineConfig(mode=["triton_int8kv"])) == "int8"
    assert kv_type_of(EngineConfig(mode=["triton_gqa_flashdecoding", "triton_fp8kv"])) == "fp8"
    assert kv_type_of(EngineConfig(mode=["ppl_int4kv_flashdecoding"], kv_type="int4")) == "int4"


def test_modes_that_are_unknown_or_at_odds_are_refused():
    with pytest.raises(ConfigError, match=r"--mode=int3kv is not supported; supported: triton_int8kv"):
        kv_type_of(EngineConfig(mode=["int3kv"]))
    with pytest.raises(ConfigError, match=r"--kv_type and --mode=triton_int8kv ask for fp8 and int8; give one"):
        kv_type_of(EngineConfig(mode=["triton_int8kv"], kv_type="fp8"))
