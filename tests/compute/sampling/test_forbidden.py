import torch

from lightllm.compute.sampling.forbidden import forbid


def test_forbidden_tokens_are_never_chosen():
    logits = forbid(torch.zeros(2, 4), torch.tensor([0, 0, 1]), torch.tensor([1, 3, 0]))
    assert logits.isneginf().tolist() == [[False, True, False, True], [True, False, False, False]]
