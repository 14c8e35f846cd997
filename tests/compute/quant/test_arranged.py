"""Weights and activations compute the same in the order and the parts in which a device has them fastest."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.compute import kernels, ops
from lightllm.compute.layers.linear import Projection
from lightllm.compute.layers.norm import RMSNorm
from lightllm.compute.ops.op import Facts, Implementation
from lightllm.compute.ops.per_channel import GROUP, Rounded, in_groups
from lightllm.compute.state.layer_state import Format
from tests.compute.driver import load, run, tensor_mesh
from tests.compute.models.twins import SIZES, STEPS, make
from tests.compute.quant import formats
from tests.compute.ranks import ThreadRanks

kernels.load(Facts(torch.device("cpu"), torch.bfloat16))  # before any test says that there are none
INT4 = ["awq", "gptq", "gptq_order", "packed", "packed_zeros"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    model = LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True))
    return make(model, tmp_path_factory.mktemp("llama"))


@pytest.fixture
def stored(llama, request, tmp_path):
    """The checkpoint in one of the formats of `formats`, and what it computes as it is."""
    formats.write(llama.directory, tmp_path / "quantized", tmp_path / "meant", form=request.param)
    expected = run(load(tmp_path / "quantized"), llama.sequences, STEPS["chunked"])
    return tmp_path / "quantized", expected


@pytest.fixture
def tiles_are_fast(monkeypatch):
    for op in (ops.linear_int4, ops.gated_linear_int4):
        monkeypatch.setattr(op, "is_fast", False)
        monkeypatch.setattr(op, "implementations", [Implementation("fast", op.reference, lambda facts: None)])


def in_tiles(model) -> list[str]:
    return [path for path, one in model.named_modules() if isinstance(one, Projection) and "words" in one.tensors]


@pytest.mark.parametrize("stored", INT4, indirect=True)
@pytest.mark.parametrize("ranks", [1, 2])
def test_tiles_compute_what_the_checkpoint_says(stored, llama, ranks, tiles_are_fast):
    directory, expected = stored

    def work(group):
        model = load(directory, tensor_mesh(group))
        return in_tiles(model), run(model, llama.sequences, STEPS["chunked"])

    for tiled, got in ThreadRanks(ranks).run(work):
        # With two ranks some shares begin within a group, or have parts of groups that lie scattered.
        assert len(tiled) == 4 * SIZES["num_hidden_layers"] if ranks == 1 else tiled
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("quant_type", ["fp8w8a8", "w8a8", "ao-w8a16", "none"])
def test_norms_that_round_compute_what_rounding_afterwards_does(llama, quant_type, monkeypatch):
    def logits():
        model = load(llama.directory, dtype=torch.bfloat16, quant_type=quant_type)
        return run(model, llama.sequences, STEPS["chunked"], form=Format(torch.bfloat16))

    # Another implementation's norms may differ in the last bit, which rounding makes much of.
    monkeypatch.setattr(ops.add_rms_norm, "implementations", [])
    rounded, reference = [], ops.add_rms_norm_rounded.reference
    monkeypatch.setattr(ops.add_rms_norm_rounded, "reference", lambda *args: rounded.append(1) or reference(*args))
    got = logits()
    assert bool(rounded) == (quant_type in ("fp8w8a8", "w8a8"))
    monkeypatch.setattr(RMSNorm, "add_for", lambda self, layer, x, residual: self.add(x, residual))
    torch.testing.assert_close(got, logits(), atol=0, rtol=0)


@pytest.mark.parametrize("quant_type", ["none", "w8a8"])
def test_norms_that_add_parts_compute_what_whole_products_do(tmp_path, quant_type, monkeypatch):
    llama = make(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path)
    made = []

    def two_parts_of(op):
        def two_parts(*given):
            whole = op.reference(*given)
            made.append(op.name)
            return torch.cat([whole / 4, whole * 0.75])  # which is exact

        return [Implementation("two", two_parts, lambda facts: None)]

    def logits():
        model = load(llama.directory, dtype=torch.bfloat16, quant_type=quant_type)
        return run(model, llama.sequences, STEPS["chunked"], form=Format(torch.bfloat16))

    # Another implementation's norms may differ in the last bit.
    monkeypatch.setattr(ops.add_rms_norm, "implementations", [])
    expected = logits()
    for op in (ops.linear_in_parts, ops.linear_per_channel_in_parts):
        monkeypatch.setattr(op, "implementations", two_parts_of(op))
    torch.testing.assert_close(logits(), expected, atol=0, rtol=0)
    assert len(set(made)) == 1, "there are products in parts, of one format"


@pytest.mark.parametrize("quant_type", ["fp8w8a8", "w8a8"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_gates_that_round_compute_what_rounding_in_groups_afterwards_does(tmp_path, quant_type, ranks, monkeypatch):
    sizes = SIZES | {"intermediate_size": 2 * ranks * GROUP}
    llama = make(LlamaForCausalLM(LlamaConfig(**sizes, mlp_bias=True)), tmp_path)
    rounded, reference = [], ops.gated_linear_rounded.reference

    def logits(group):
        model = load(llama.directory, tensor_mesh(group), dtype=torch.bfloat16, quant_type=quant_type)
        return run(model, llama.sequences, STEPS["chunked"], form=Format(torch.bfloat16))

    def round_afterwards(self, reader, x):
        y = self.gated(x)
        return Rounded(*in_groups(y, reader.rounded_to), y.dtype) if isinstance(x, Rounded) else y

    one = Implementation("one", lambda *args: rounded.append(1) or reference(*args), lambda facts: None)
    monkeypatch.setattr(ops.gated_linear_rounded, "implementations", [one])
    got = ThreadRanks(ranks).run(logits)
    assert rounded
    monkeypatch.setattr(Projection, "gated_for", round_afterwards)
    torch.testing.assert_close(got, ThreadRanks(ranks).run(logits), atol=0, rtol=0)
