import torch

from lightllm.base.token_words import mask_of
from lightllm.compute.ops.masks import allow


def test_only_tokens_of_the_mask_are_left():
    logits = torch.arange(140.0).repeat(3, 1)
    chosen = [[0, 31, 32, 139], [64]]
    masks = torch.stack([torch.from_numpy(mask_of(tokens, 140)) for tokens in chosen])
    got = allow(logits.clone(), torch.tensor([2, 0]), masks, torch.tensor([0, 1]))
    assert got[2].isfinite().nonzero().flatten().tolist() == chosen[0]
    assert got[0].isfinite().nonzero().flatten().tolist() == chosen[1]
    assert torch.equal(got[1], logits[1])


def test_tokens_beyond_the_mask_are_not_allowed():
    masks = torch.full((1, 2), -1, dtype=torch.int32)
    got = allow(torch.zeros(1, 100), torch.tensor([0]), masks, torch.tensor([0]))
    assert got.isfinite().sum() == 64
