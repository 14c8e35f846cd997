"""Checkpoints as different tools publish them compute what their dequantized twins do, or are refused by name."""

import json
import re
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.base.errors import ConfigError
from lightllm.base.quantization import stated
from lightllm.compute.quant.int4 import unpacked_in_order
from lightllm.compute.quant.select import method_for
from tests.compute.driver import load, run
from tests.compute.models.twins import SIZES, STEPS, Twin, make
from tests.compute.quant import formats


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path_factory.mktemp("llama"))


@dataclass
class Pair:
    """A quantized checkpoint, which a test may change, and what the dequantized one computes."""

    directory: Path
    meant: Path
    twin: Twin

    def state(self, *, without: tuple[str, ...] = (), **fields) -> None:
        """Changes fields of its quantization_config."""
        raw = json.loads((self.directory / "config.json").read_text())
        kept = {name: value for name, value in raw["quantization_config"].items() if name not in without}
        self.write(raw | {"quantization_config": kept | fields})

    def write(self, raw) -> None:
        (self.directory / "config.json").write_text(json.dumps(raw))

    def change(self, change) -> None:
        """change(name, tensor) -> the tensors in its place."""
        file = self.directory / "model.safetensors"
        changed = [change(name, tensor) for name, tensor in load_file(file).items()]
        save_file({name: tensor for tensors in changed for name, tensor in tensors.items()}, file)

    def check(self) -> None:
        got, expected = (run(load(one), self.twin.sequences, STEPS["whole"]) for one in (self.directory, self.meant))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def pair(llama, request, tmp_path):
    directory, meant = tmp_path / "quantized", tmp_path / "meant"
    form, *keep = [request.param] if isinstance(request.param, str) else request.param
    formats.write(llama.directory, directory, meant, form=form, keep=tuple(keep))
    return Pair(directory, meant, llama)


def in_form(*form: str):
    return pytest.mark.parametrize("pair", [form if len(form) > 1 else form[0]], indirect=True)


def beside(suffix: str, name: str, made):
    """Another tensor beside each whose name ends with `suffix`."""
    return lambda found, tensor: (
        {found: tensor, found.removesuffix(suffix) + name: made(tensor)} if found.endswith(suffix) else {found: tensor}
    )


@in_form("gptq")
def test_biases_of_zeros_beside_matrices_without_a_bias_are_none(pair):
    pair.change(beside("qweight", "bias", lambda weight: torch.zeros(weight.shape[1], dtype=torch.float16)))
    pair.check()


@in_form("gptq")
def test_biases_that_no_one_adds_are_named(pair):
    pair.change(beside("qweight", "bias", lambda weight: torch.ones(weight.shape[1], dtype=torch.float16)))
    with pytest.raises(ConfigError, match=r"21 unused: model.layers.0.mlp.down_proj.bias"):
        load(pair.directory)


@in_form("gptq_order")
def test_an_order_of_inputs_that_the_config_does_not_state_is_named(pair):
    pair.state(desc_act=False)
    with pytest.raises(ConfigError, match=r"21 with inputs in an order \(act-order\) that it does not state: .*g_idx"):
        load(pair.directory)


@pytest.mark.parametrize("pair", ["gptq_order", "packed_order"], indirect=True)
def test_parts_of_one_product_in_different_orders_are_named(pair):
    turned = re.compile(r"1\.self_attn\.k_proj\..*g_idx")
    pair.change(lambda name, tensor: {name: tensor.flip(0) if turned.search(name) else tensor})
    modules = r"1.self_attn.q_proj, .*1.self_attn.k_proj, .*1.self_attn.v_proj"
    with pytest.raises(ConfigError, match=rf"{modules} are computed as one product, but their act-order differs"):
        load(pair.directory)


@in_form("gptq_order")
@pytest.mark.parametrize("shift", [-1, 1])
def test_groups_that_are_not_there_are_an_error(pair, shift):
    pair.change(lambda name, tensor: {name: tensor + shift if name.endswith("g_idx") else tensor})
    with pytest.raises(ConfigError, match=r"proj: g_idx names groups that are not among the [23]"):
        load(pair.directory)


@in_form("gptq")
@pytest.mark.parametrize("field", ["checkpoint_format", "format"])
def test_zero_points_are_read_as_either_name_of_the_layout_says(pair, field):
    pair.state(without=("checkpoint_format",), **{field: "gptq_v2"})

    def one_more(name, tensor):
        is_zero = name.endswith("qzeros")
        return {name: formats.in_order((unpacked_in_order(tensor) + 1) & 15) if is_zero else tensor}

    pair.change(one_more)
    pair.check()


@in_form("gptq", "gate_proj", "up_proj", "down_proj")
def test_only_the_modules_that_gptq_names_may_be_quantized(pair):
    pair.state(modules_in_block_to_quantize=[["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["o_proj"]])
    pair.check()


@in_form("gptq", "gate_proj", "up_proj", "down_proj")
def test_modules_that_gptq_leaves_alone(pair):
    pair.state(dynamic={"-:.*mlp.*": {}, "-:lm_head": {}})
    pair.check()


@in_form("awq", "layers.1.self_attn.o_proj", "down_proj")
def test_modules_may_be_named_with_a_dot_at_the_end(pair):
    pair.state(modules_to_not_convert=["down_proj", "model.layers.1.self_attn.o_proj."])
    pair.check()


@in_form("awq")
def test_older_names_of_awq_in_a_file_of_its_own(pair):
    raw = json.loads((pair.directory / "config.json").read_text())
    del raw["quantization_config"]
    pair.write(raw)
    older = {"zero_point": True, "q_group_size": formats.GROUP, "w_bit": 4, "version": "GEMM"}
    (pair.directory / "quant_config.json").write_text(json.dumps(older))
    pair.check()


@in_form("gptq")
def test_gptq_in_a_file_of_its_own(pair):
    raw = json.loads((pair.directory / "config.json").read_text())
    older = raw.pop("quantization_config")
    pair.write(raw)
    (pair.directory / "quantize_config.json").write_text(json.dumps(older | {"quant_method": "gptq"}))
    pair.check()


@in_form("fp8_channel")
def test_the_first_name_of_compressed_tensors_own_field(pair):
    raw = json.loads((pair.directory / "config.json").read_text())
    pair.write(raw | {"compression_config": raw.pop("quantization_config")})
    pair.check()


@in_form("fp8_tensor", "layers.0.mlp.down_proj", "layers.2.self_attn.o_proj")
@pytest.mark.parametrize("entry", ["model.layers.0.mlp.down_proj", r"model\.layers\.0\..*down_proj"])
def test_layers_that_are_ignored_may_be_named_or_described(pair, entry):
    pair.state(
        without=("modules_to_not_convert",), ignored_layers=["lm_head", entry, "model.layers.2.self_attn.o_proj"]
    )
    pair.check()


@in_form("fp8_tensor")
def test_one_scale_a_tensor_by_its_other_name(pair):
    pair.state(weight_block_size=None)
    pair.change(lambda name, tensor: {name.replace("weight_scale", "weight_scale_inv"): tensor})
    pair.check()


@in_form("fp8_tensor")
@pytest.mark.parametrize("name", ["input_scale", "activation_scale"])
def test_measured_scales_are_not_needed(pair, name, caplog):
    pair.state(activation_scheme="static", kv_cache_scheme="static")
    pair.change(beside("weight_scale", name, torch.ones_like))
    pair.change(beside("k_proj.weight", "k_scale", lambda _: torch.ones(1)))
    with caplog.at_level("INFO", "lightllm"):
        pair.check()
    assert "24 scales are not used: model.layers.0" in caplog.text


@in_form("int8_channel")
def test_measured_scales_of_compressed_tensors_are_not_needed(pair):
    config = formats.CONFIGS["int8_channel"][1]
    measured = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
    group = config["config_groups"]["group_0"] | {"input_activations": measured}
    pair.state(config_groups={"group_0": group}, kv_cache_scheme=measured)
    pair.change(beside("weight_scale", "input_scale", lambda _: torch.ones(1)))
    pair.check()


@in_form("packed")
def test_what_is_not_sparse_may_be_said_to_be_dense(pair):
    pair.state(sparsity_config={"format": "dense", "targets": [], "global_sparsity": 0.1}, transform_config={})
    pair.check()


@in_form("packed_order")
@pytest.mark.parametrize("name", ["group", "dynamic"])
def test_both_names_of_an_order_by_groups(pair, name):
    config = formats.compressed("pack-quantized", formats.PACKED | {"actorder": name}, activations=False)
    pair.state(config_groups=config["config_groups"])
    pair.check()


def test_groups_of_modules_may_have_formats_of_their_own(llama, tmp_path):
    attention, rest = (formats.CONFIGS[form][1]["config_groups"]["group_0"] for form in ("fp8_channel", "packed"))
    groups = {
        "group_0": attention | {"targets": ["re:.*self_attn.*"], "format": "float-quantized"},
        "group_1": rest | {"targets": ["Linear"], "format": "pack-quantized"},
    }

    def quantize(module, weight):
        how = formats.fp8_channel if "self_attn" in module else partial(formats.packed, symmetric=True)
        return how(module, weight)

    config = formats.CONFIGS["packed"][1] | {"format": "mixed-precision", "config_groups": groups}
    directory, meant = tmp_path / "quantized", tmp_path / "meant"
    formats.write_as(llama.directory, directory, meant, quantize, config)
    Pair(directory, meant, llama).check()


AWQ, GPTQ, FP8 = (formats.CONFIGS[form][1] for form in ("awq", "gptq", "fp8_tensor"))
OTHERS = [
    "bitsandbytes",
    "modelopt",
    "quark",
    "quanto",
    "torchao",
    "fbgemm_fp8",
    "hqq",
    "aqlm",
    "eetq",
    "higgs",
    "mxfp4",
]


def grouped(**weights):
    return formats.compressed("pack-quantized", formats.PACKED | weights, activations=False)


def blocks(**activations):
    weights = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": list(formats.TILE)}
    config = formats.compressed("float-quantized", weights, activations=True)
    config["config_groups"]["group_0"]["input_activations"] |= {"strategy": "group", "group_size": 128} | activations
    return config


@in_form("fp8_block")
def test_blocks_of_compressed_tensors(pair):
    pair.state(**blocks())
    pair.change(lambda name, tensor: {name.replace("weight_scale_inv", "weight_scale"): tensor})
    pair.check()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        *(({"quant_method": name}, rf"quant_method {name} .* supported: fp8, awq, gptq, compr") for name in OTHERS),
        (AWQ | {"version": None, "format": "gemv"}, r"format=gemv is not supported by awq; supported: gemm"),
        (AWQ | {"backend": "llm-awq"}, r"backend=llm-awq is not supported by awq"),
        (AWQ | {"bits": None, "w_bit": 3}, r"w_bit=3 is not supported by awq; supported: 4"),
        (AWQ | {"modules_to_not_convert": "kv_b_proj"}, r"modules_to_not_convert=kv_b_proj .* supported: a list of"),
        (AWQ | {"modules_to_not_convert": ["("]}, r"modules_to_not_convert has \(, which is no regular expression"),
        (GPTQ | {"checkpoint_format": "marlin"}, r"checkpoint_format=marlin .* by gptq; supported: gptq, gptq_v2"),
        (GPTQ | {"pack_dtype": "int16"}, r"pack_dtype=int16 is not supported by gptq; supported: int32"),
        (GPTQ | {"bits": 8}, r"bits=8 is not supported by gptq; supported: 4"),
        (
            GPTQ | {"dynamic": {"-:mlp": {}, "+:.*q_proj": {"bits": 8}}},
            r"dynamic=.*q_proj.* is not supported by gptq; .* \(-:\)",
        ),
        (FP8 | {"activation_scheme": "half"}, r"activation_scheme=half .* by fp8; supported: dynamic, static"),
        (grouped(actorder="row"), r"actorder=row is not supported; supported: weight, group, static, dynamic"),
        (grouped(num_bits=8), r"weights of type int8 in format pack-quantized are not supported"),
        (grouped() | {"format": "nvfp4-pack-quantized"}, r"format nvfp4-pack-quantized is not supported"),
        (grouped() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, r"format=sparse-24-bitmask .*: dense"),
        (grouped() | {"ignore": ["re:*mlp"]}, r"has '\*mlp', which is no regular expression"),
        (grouped() | {"ignore": "lm_head"}, r"compressed-tensors is not as it should be: .*ignore"),
        (grouped() | {"config_groups": {"group_0": None}}, r"is not as it should be: .*config_groups"),
        (blocks(group_size=64), r"group_size=64, .* is not supported; supported: .*group_size=128"),
        (grouped() | {"transform_config": {"config_groups": {}}}, r"transform_config of compressed-tensors is not"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config, message):
    with pytest.raises(ConfigError, match=f"{message}.*; take a checkpoint in another format, or the original one"):
        method_for(config)


def fields(config):
    """Every dict in a config, and each of its keys."""
    for name, value in config.items():
        yield config, name
        if isinstance(value, dict):
            yield from fields(value)


@pytest.mark.parametrize("form", formats.CONFIGS)
def test_whatever_a_config_holds_is_read_or_refused(form):
    random = Random(form)
    odd = [None, [], {}, "x", -1, 0, 1.5, True, ["a"], [1], {"a": 1}, [["a"]], [[1]]]
    lists = ("modules_to_not_convert", "ignored_layers", "modules_in_block_to_quantize", "dynamic", "sparsity_config")
    refused = 0
    for _ in range(100):
        config = deepcopy(formats.CONFIGS[form][1]) | dict.fromkeys(lists)
        where, name = random.choice([*fields(config)])
        where[name] = random.choice(odd)
        try:
            method_for(config)("model.layers.0.mlp.down_proj")
        except ConfigError:
            refused += 1
    assert 20 < refused < 100


@pytest.mark.parametrize(
    ("raw", "file", "expected"),
    [
        ({}, None, None),
        ({"quantization_config": {"quant_method": "fp8"}}, "quant_config.json", "fp8"),
        ({"quantization": {"bits": 4}}, None, "mlx"),
        ({}, "hf_quant_config.json", "modelopt"),
        ({}, "quantize_config.json", "gptq"),
    ],
)
def test_where_a_checkpoint_says_how_it_is_quantized(raw, file, expected, tmp_path):
    if file:
        (tmp_path / file).write_text('{"bits": 4}')
    said = stated(tmp_path, raw)
    assert (said and said["quant_method"]) == expected


def test_a_config_without_a_method_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="quantization_config without quant_method"):
        stated(tmp_path, {"quantization_config": {"bits": 4, "group_size": 64}})
