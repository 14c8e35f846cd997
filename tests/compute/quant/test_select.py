"""The checkpoint's own config decides how each matrix is stored; what is not supported is refused by name."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.base.errors import ConfigError
from lightllm.compute.parallel.mesh import Group
from lightllm.compute.quant.awq import Awq
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.select import method_for
from lightllm.compute.weights.share import divided, whole
from lightllm.compute.weights.weight import Matrix, Run
from tests.compute.driver import load, run
from tests.compute.models.twins import SIZES, STEPS, make
from tests.compute.quant.formats import CONFIGS, write

FP8, AWQ = CONFIGS["fp8_block"][1], CONFIGS["awq"][1]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path_factory.mktemp("llama"))


def test_formats_are_recognized():
    assert method_for(None)("any").name == "none"
    assert method_for(FP8)("any") == Fp8Block((24, 40))
    assert method_for(AWQ | {"version": "GEMM"})("any") == Awq(32)


def test_modules_are_left_alone_by_whole_components():
    methods = method_for(AWQ | {"modules_to_not_convert": ["mlp.gate", "layers.1"]})
    names = {
        path: methods(path).name
        for path in ("layers.0.mlp.gate", "layers.0.mlp.gate_proj", "layers.1.x", "layers.10.x")
    }
    assert list(names.values()) == ["none", "awq", "none", "awq"]


@pytest.mark.parametrize("form", CONFIGS)
def test_a_checkpoint_may_keep_modules_as_they_are(plain, form, tmp_path):
    write(plain.directory, tmp_path / "quantized", tmp_path / "meant", form=form, keep=("o_proj", "down_proj"))
    models = [load(tmp_path / name) for name in ("quantized", "meant")]
    got, expected = (run(model, plain.sequences, STEPS["whole"]) for model in models)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_matrices_of_one_product_must_be_stored_alike(plain, tmp_path):
    write(plain.directory, tmp_path / "quantized", tmp_path / "meant", form="awq", keep=("k_proj",))
    with pytest.raises(ConfigError, match=r"quantized alike.*k_proj: none"):
        load(tmp_path / "quantized")


def test_awq_says_which_share_it_cannot_cut():
    matrix = Matrix((Run("mlp.gate_proj", divided(96, Group(1, 8), what="outputs")),), whole(64))
    with pytest.raises(ConfigError, match=r"mlp.gate_proj: awq packs 8 outputs .* 12 to 24 of 96; use a smaller --tp"):
        Awq(32).declare(matrix)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"quant_method": "hqq"}, r"quant_method hqq is not supported; supported: fp8, awq, gptq, compressed-tensors"),
        ({}, r"quant_method None is not supported"),
        (FP8 | {"weight_block_size": [128]}, r"weight_block_size=\[128\] is not supported by fp8"),
        (AWQ | {"bits": 8}, r"bits=8 is not supported by awq; supported: 4"),
        (AWQ | {"version": "gemv"}, r"version=gemv is not supported by awq; supported: gemm"),
        (AWQ | {"zero_point": False}, r"zero_point=False is not supported by awq; supported: True"),
        (AWQ | {"group_size": 0}, r"group_size=0 is not supported by awq"),
    ],
)
def test_refusals_name_what_was_asked(config, message):
    with pytest.raises(ConfigError, match=message):
        method_for(config)
