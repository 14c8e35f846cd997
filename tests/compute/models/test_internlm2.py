from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.base.errors import ConfigError
from tests.compute.driver import load, run, tensor_mesh
from tests.compute.models import internlm2
from tests.compute.models.twins import SIZES, STEPS, check, check_ranks, make
from tests.compute.quant import formats
from tests.compute.quant.test_made import FORMULAS, write_meant
from tests.compute.ranks import ThreadRanks

VARIANTS = {
    "plain": {},
    "no_groups": {"num_key_value_heads": 4},
    "one_group": {"num_key_value_heads": 1},
    "biased": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True, "num_attention_heads": 8},
    "scaled": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}},
}


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("internlm2")
    llama = make(LlamaForCausalLM(LlamaConfig(**SIZES | VARIANTS[request.param])), folder / "llama")
    return replace(llama, directory=internlm2.write(llama.directory, folder / "internlm2"))


@pytest.mark.parametrize("steps", STEPS)
def test_matches_transformers(twin, steps):
    check(twin, steps)


@pytest.mark.parametrize("ranks", [2, 4])
def test_parallel_matches_transformers(twin, ranks):
    check_ranks(twin, ranks)


def check_meant(twin, computed, meant, **asked):
    """The one checkpoint computes on two ranks what the other does on one."""
    expected = run(load(meant), twin.sequences, STEPS["chunked"])

    def work(group):
        return run(load(computed, tensor_mesh(group), **asked), twin.sequences, STEPS["chunked"])

    for got in ThreadRanks(2).run(work):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("twin", ["biased"], indirect=True)
@pytest.mark.parametrize("form", formats.CONFIGS)
def test_a_quantized_checkpoint_computes_what_was_meant(twin, form, tmp_path):
    formats.write(twin.directory, tmp_path / "quantized", tmp_path / "meant", form=form)
    check_meant(twin, tmp_path / "quantized", tmp_path / "meant")


@pytest.mark.parametrize("twin", ["biased"], indirect=True)
@pytest.mark.parametrize("quant_type", FORMULAS)
def test_what_is_quantized_as_it_is_read_computes_what_was_meant(twin, quant_type, tmp_path):
    write_meant(twin.directory, tmp_path / "meant", FORMULAS[quant_type])
    check_meant(twin, twin.directory, tmp_path / "meant", quant_type=quant_type)


@pytest.mark.parametrize("twin", ["biased"], indirect=True)
def test_recipes_know_its_matrices_by_their_usual_names(twin, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "quant_type: vllm-w8a8\n"
        "mix_bits:\n"
        "  - {name: qkv_proj, quant_type: none}\n"
        "  - {name: gate_up_proj, quant_type: none}\n"
        "  - {name: lm_head, quant_type: none}\n"
    )

    def wanted(name, _):
        return name.endswith((".wo.weight", ".w2.weight"))

    write_meant(twin.directory, tmp_path / "meant", formats.int8_channel, wanted)
    check_meant(twin, twin.directory, tmp_path / "meant", quant_cfg=str(recipe))
    recipe.write_text("mix_bits: [{name: kv_proj, quant_type: w8a8}]")
    with pytest.raises(ConfigError, match="names kv_proj, which this checkpoint keeps within wqkv; name qkv_proj"):
        load(twin.directory, quant_cfg=str(recipe))
