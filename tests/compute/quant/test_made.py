"""What is made of floats as they are read computes what the dequantized checkpoint does, whoever shares the work."""

import json
import shutil
from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.base.config import QUANT_TYPES
from lightllm.base.errors import ConfigError
from lightllm.compute.quant.select import method_for
from lightllm.compute.weights import stream
from lightllm.compute.weights.dummy import Dummy
from tests.compute.driver import load, run, tensor_mesh
from tests.compute.models.twins import SIZES, STEPS, make
from tests.compute.quant import formats
from tests.compute.quant.test_formats import MODELS
from tests.compute.ranks import ThreadRanks

FORMULAS = {
    "vllm-w8a8": formats.int8_channel,
    "fp8w8a8": formats.fp8_channel,
    "deepgemm-fp8w8a8-b128": partial(formats.fp8_block, tile=(128, 128)),
    "ao-fp6w6a16": formats.fp6,
    "ao-w4a16-32": formats.int4_made,
}


def _is_matrix(name, weight):
    module = name.removesuffix(".weight")
    return weight.dim() == 2 and bool(formats.MATRIX.search(module) or module in ("lm_head", "output"))


def write_meant(source, directory, formula, wanted=_is_matrix):
    """The checkpoint with what its matrices are made to stand for."""
    shutil.copytree(source, directory)
    tensors = load_file(source / "model.safetensors")
    meant = {
        name: formula(name.removesuffix(".weight"), weight)[1] if wanted(name, weight) else weight
        for name, weight in tensors.items()
    }
    save_file(meant, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def plain_of(tmp_path_factory):
    return cache(lambda name: make(MODELS[name](), tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="module", params=MODELS)
def plain(request, plain_of):
    return plain_of(request.param)


@pytest.mark.parametrize("quant_type", FORMULAS)
def test_one_rank_and_two_compute_what_was_meant(plain, quant_type, tmp_path):
    write_meant(plain.directory, tmp_path / "meant", FORMULAS[quant_type])
    expected = run(load(tmp_path / "meant"), plain.sequences, STEPS["chunked"])

    def work(group):
        model = load(plain.directory, tensor_mesh(group), quant_type=quant_type)
        return run(model, plain.sequences, STEPS["chunked"])

    for ranks in (1, 2):
        for got in ThreadRanks(ranks).run(work):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("quant_type", FORMULAS)
def test_pieces_are_converted_as_the_whole_is(llama, quant_type, monkeypatch):
    expected = run(load(llama.directory, quant_type=quant_type), llama.sequences, STEPS["whole"])
    monkeypatch.setattr(stream, "PIECE_BYTES", 4096)
    got = run(load(llama.directory, quant_type=quant_type), llama.sequences, STEPS["whole"])
    torch.testing.assert_close(got, expected, atol=0, rtol=0)


def test_a_recipe_quantizes_single_matrices_of_single_layers(llama, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "quant_type: vllm-w8a8\n"
        "mix_bits:\n"
        "  - {name: down_proj, quant_type: none, layer_nums: [1]}\n"
        "  - {name: gate_up_proj, quant_type: none}\n"
        "  - {name: lm_head, quant_type: none}\n"
    )
    kept = ("layers.1.mlp.down_proj.", "gate_proj.", "up_proj.", "lm_head")

    def wanted(name, weight):
        return _is_matrix(name, weight) and not any(part in name for part in kept)

    write_meant(llama.directory, tmp_path / "meant", formats.int8_channel, wanted)
    models = load(llama.directory, quant_cfg=str(recipe)), load(tmp_path / "meant")
    got, expected = (run(model, llama.sequences, STEPS["whole"]) for model in models)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("model", "entry", "message"),
    [
        ("llama_with_biases", "name: fused_moe", "names fused_moe, of which this model has nothing that may be quanti"),
        ("llama_with_biases", "name: down_proj, layer_nums: [2, 3, 9]", "down_proj in layers 3, 9, .* layers 0 to 2"),
        ("llama_with_biases", "name: lm_head, layer_nums: [1]", "lm_head in layers 1, .* lm_head is in no layer"),
        ("deepseek_v3", "name: fused_moe, layer_nums: [0, 1]", "fused_moe in layers 0, .* layers 1 to 2"),
    ],
)
def test_what_a_recipe_names_and_a_model_has_not_is_an_error(plain_of, model, entry, message, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"mix_bits: [{{{entry}, quant_type: w8a8}}]")
    with pytest.raises(ConfigError, match=message):
        load(plain_of(model).directory, quant_cfg=str(recipe))


def test_experts_may_have_another_format_than_the_rest(plain_of, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "mix_bits:\n"
        "  - {name: fused_moe, quant_type: w8a8, layer_nums: [1]}\n"
        "  - {name: moe_gate, quant_type: none}\n"
        "  - {name: fused_moe, quant_type: w8a8, layer_nums: [2]}\n"
        "  - {name: fused_moe, quant_type: none, layer_nums: [2]}\n"
    )
    deepseek = plain_of("deepseek_v3")
    write_meant(
        deepseek.directory, tmp_path / "meant", formats.int8_channel, lambda name, _: "layers.1.mlp.experts." in name
    )
    models = load(deepseek.directory, quant_cfg=str(recipe)), load(tmp_path / "meant")
    got, expected = (run(model, deepseek.sequences, STEPS["whole"]) for model in models)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("quant_type", QUANT_TYPES)
def test_every_name_has_a_method_that_runs_without_a_checkpoint(llama, quant_type, monkeypatch):
    monkeypatch.setattr("tests.compute.driver.Safetensors", lambda directory: Dummy())
    model = load(llama.directory, quant_type=quant_type)
    assert all(logits.isfinite().all() for logits in run(model, llama.sequences, STEPS["whole"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quant_type: w3a3", "quant_type w3a3 is not supported; supported: none, w8a8"),
        ("mix_bits: [{name: moe_gate, quant_type: w8a8}]", "names moe_gate, which cannot be quantized"),
        ("quant_typ: none", "unknown field"),
        ("[", "cannot be read"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(text, message, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(ConfigError, match=message):
        method_for(None, quant_cfg=str(recipe))


def test_quantized_weights_are_not_quantized_again(llama, tmp_path):
    formats.write(llama.directory, tmp_path / "quantized", tmp_path / "meant", form="awq")
    stated = json.loads((tmp_path / "quantized" / "config.json").read_text())["quantization_config"]
    with pytest.raises(ConfigError, match=r"--quant_type=w8a8 is for weights that are not quantized.*awq"):
        method_for(stated, quant_type="w8a8")
