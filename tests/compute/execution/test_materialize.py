"""Loading a model onto a rank."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lightllm.base.errors import ConfigError
from lightllm.compute.execution.materialize import materialize
from lightllm.compute.models import registry
from lightllm.compute.parallel.mesh import Group, Mesh
from lightllm.compute.quant.select import method_for
from lightllm.compute.weights.dummy import Dummy
from tests.compute.driver import CPU, load, run, tensor_mesh
from tests.compute.models.twins import SIZES, STEPS, make

RAW = SIZES | {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-6, "max_position_embeddings": 16}


def build():
    return registry.build(registry.load_config(RAW)[1])


def test_progress_counts_the_bytes_of_this_rank():
    seen = []
    total = materialize(
        build(),
        Dummy(),
        mesh=tensor_mesh(Group(1, 2)),
        dtype=torch.bfloat16,
        device=CPU,
        method_for=method_for(None),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (total, total)
    # A layer: half of q, k, v, o [64, 192] and of gate, up, down [64, 288], two norms. Rows of tokens, 51 of 102 in
    # the embedding and the last 45 of 101 in the head, which is shared in eights; and a norm.
    assert total == 2 * (3 * (64 * (192 + 288) // 2 + 2 * 64) + (51 + 45) * 64 + 64)


def test_positions_can_be_extended_beyond_what_the_checkpoint_states():
    model = build()
    assert model.max_positions == 16
    model.extend(40)
    materialize(model, Dummy(), mesh=Mesh(), dtype=torch.float32, device=CPU, method_for=method_for(None))
    assert model.rope.table.shape == (40, 16)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (3, r"--tp=3 does not divide the 4 heads of q_proj; use 1, 2, 4"),
        (8, r"--tp=8 does not divide the 4 heads of q_proj; use 1, 2, 4"),
    ],
)
def test_a_share_that_does_not_come_out_even_is_refused(ranks, message):
    mesh = tensor_mesh(Group(0, ranks))
    with pytest.raises(ConfigError, match=message):
        materialize(build(), Dummy(), mesh=mesh, dtype=torch.float32, device=CPU, method_for=method_for(None))


def test_bfloat16_weights_stay_near_float32(tmp_path):
    twin = make(LlamaForCausalLM(LlamaConfig(**SIZES)), tmp_path)
    got = run(load(tmp_path, dtype=torch.bfloat16), twin.sequences, STEPS["chunked"])
    for one, expected in zip(got, twin.expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(one, expected, dim=-1).min() > 0.99
