"""What a directory holds is read share by share; what does not fit is named in one error."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.base.errors import ConfigError
from lightllm.compute.weights.checkpoint import Safetensors
from lightllm.compute.weights.weight import Part, Weight
from tests.compute.driver import load
from tests.compute.models.twins import SIZES, check, make

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def twin(plain, tmp_path):
    """A copy that a test may spoil."""
    save_file(load_file(plain.directory / "model.safetensors"), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((plain.directory / "config.json").read_text())
    return type(plain)(tmp_path, plain.sequences, plain.expected)


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def shard(directory):
    """The same checkpoint in two files and an index."""
    tensors = load_file(directory / "model.safetensors")
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, directory / file)
    (directory / "model.safetensors").unlink()
    (directory / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def test_shards_are_one_checkpoint(twin):
    shard(twin.directory)
    check(twin)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_converted(twin, stored):
    rewrite(twin.directory, lambda tensors: tensors.update({name: x.to(stored) for name, x in tensors.items()}))
    model, name = load(twin.directory), "model.layers.0.mlp.down_proj.weight"
    expected = load_file(twin.directory / "model.safetensors")[name].float()
    torch.testing.assert_close(model.get_submodule("model.layers.0.mlp.down_proj").tensors["weight"], expected)


def test_only_the_window_is_read(twin):
    part = Part("model.layers.0.mlp.down_proj.weight", (64, 96), (slice(0, 64), slice(24, 48)))
    got = Safetensors(twin.directory).read(part, Weight((part,)))
    torch.testing.assert_close(got, load_file(twin.directory / "model.safetensors")[part.name][:, 24:48])


def test_missing_tensors_are_named(twin):
    name = "model.layers.1.self_attn.k_proj.weight"
    rewrite(twin.directory, lambda tensors: tensors.pop(name))
    with pytest.raises(ConfigError, match=rf"does not fit its config.json: 1 missing: {name}"):
        load(twin.directory)


def test_unused_tensors_are_named(twin):
    extra = {f"model.layers.{i}.extra": torch.ones(1) for i in range(5)}
    rewrite(twin.directory, lambda tensors: tensors.update(extra))
    with pytest.raises(ConfigError, match=r"5 unused: model.layers.0.extra, .*, and 2 more"):
        load(twin.directory)


def test_misshapen_tensors_are_named(twin):
    rewrite(twin.directory, lambda tensors: tensors.update({"model.norm.weight": torch.ones(65)}))
    with pytest.raises(ConfigError, match=r"1 unexpected: model.norm.weight has shape \[65\] instead of \[64\]"):
        load(twin.directory)


def test_tensors_of_another_kind_are_named(twin):
    change = {"model.norm.weight": torch.ones(64, dtype=torch.float8_e4m3fn)}
    rewrite(twin.directory, lambda tensors: tensors.update(change))
    with pytest.raises(ConfigError, match=r"model.norm.weight is stored as F8_E4M3 instead of bfloat16 or float"):
        load(twin.directory)


def test_one_error_names_everything(twin):
    def spoil(tensors):
        tensors["lm_head.weights"] = tensors.pop("lm_head.weight")

    rewrite(twin.directory, spoil)
    with pytest.raises(ConfigError, match=r"1 missing: lm_head.weight; 1 unused: lm_head.weights"):
        load(twin.directory)


def test_buffers_of_old_files_are_ignored(twin):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    rewrite(twin.directory, lambda tensors: tensors.update(extra))
    check(twin)


def test_a_head_that_repeats_the_embedding_is_ignored(twin):
    raw = json.loads((twin.directory / "config.json").read_text())
    (twin.directory / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    model = load(twin.directory)
    assert model.lm_head is model.model.embed_tokens


def test_pickled_checkpoints_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ConfigError, match=r"must hold weights as \*.safetensors; found only PyTorch .bin files"):
        Safetensors(tmp_path)


def test_an_empty_directory_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"must hold weights as \*.safetensors; found none"):
        Safetensors(tmp_path)


def test_a_broken_file_is_named(twin):
    (twin.directory / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ConfigError, match=r"cannot read .*model.safetensors"):
        load(twin.directory)


def test_a_lacking_shard_is_named(twin):
    shard(twin.directory)
    (twin.directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"lacks model-00002-of-00002.safetensors, named in"):
        load(twin.directory)


def test_a_broken_index_is_named(twin):
    shard(twin.directory)
    (twin.directory / INDEX).write_text("[]")
    with pytest.raises(ConfigError, match=r"index.json is not a safetensors index"):
        load(twin.directory)


def test_a_file_cut_short_is_named(twin):
    path = twin.directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"cannot read .*model.safetensors: .* lies at bytes"):
        load(twin.directory)
