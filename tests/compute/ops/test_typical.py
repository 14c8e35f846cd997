import pytest
import torch
from transformers import TypicalLogitsWarper

from lightllm.compute.ops.typical import keep_typical

VOCABULARY = 200


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("typical_p", [0.05, 0.3, 0.9, 0.999])
def test_keeps_what_transformers_keeps(typical_p, temperature):
    torch.manual_seed(0)
    logits = torch.randn(6, VOCABULARY) * 3
    logits[2, ::4] = float("-inf")
    expected = TypicalLogitsWarper(mass=typical_p)(None, logits / temperature).isneginf()
    count = torch.full((6,), typical_p)
    got = keep_typical(logits.clone(), torch.arange(6), torch.full((6,), temperature), count)
    assert torch.equal(got.isneginf(), expected)
    assert torch.equal(got[~expected], logits[~expected])


def test_other_rows_are_left_alone_and_equals_stay_together():
    logits = torch.tensor([[5.0, 1.0, 1.0, 1.0, -3.0]]).repeat(3, 1)
    got = keep_typical(logits.clone(), torch.tensor([1]), torch.ones(1), torch.tensor([0.01]))
    assert torch.equal(got[[0, 2]], logits[[0, 2]])
    kept = got[1].isfinite().tolist()
    assert kept[1] == kept[2] == kept[3]
