import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from lightllm.compute.sampling.penalties import forbid, penalize

VOCABULARY = 50


def case(rows):
    torch.manual_seed(0)
    logits = torch.randn(rows, VOCABULARY)
    tokens = torch.randint(0, VOCABULARY, (rows, 40))
    lengths = torch.randint(2, 41, (rows,))
    return logits, tokens, lengths, (lengths * torch.rand(rows)).long()


def neutral(rows):
    return {"repetition": torch.ones(rows), "presence": torch.zeros(rows), "frequency": torch.zeros(rows)}


def test_equals_counting_token_by_token():
    logits, tokens, lengths, prompts = case(6)
    repetition, presence, frequency = torch.rand(3, 6) + torch.tensor([[0.7], [-0.5], [-0.5]])
    got = penalize(
        logits, tokens, lengths, prompts, repetition=repetition, presence=presence, frequency=frequency
    ).numpy()
    for row in range(6):
        known, output = tokens[row, : lengths[row]].tolist(), tokens[row, prompts[row] : lengths[row]].tolist()
        for token in range(VOCABULARY):
            expected, penalty = logits[row, token].item(), repetition[row].item()
            if token in known:
                expected = expected / penalty if expected > 0 else expected * penalty
            expected -= frequency[row].item() * output.count(token) + presence[row].item() * (token in output)
            np.testing.assert_allclose(got[row, token], expected, rtol=1e-5, atol=1e-6)


def test_repetition_equals_transformers():
    logits, tokens, lengths, prompts = case(5)
    got = penalize(logits, tokens, lengths, prompts, **neutral(5) | {"repetition": torch.full((5,), 1.3)})
    for row in range(5):
        expected = RepetitionPenaltyLogitsProcessor(1.3)(tokens[row, None, : lengths[row]], logits[row, None].clone())
        assert torch.equal(got[row], expected[0])


def test_neutral_penalties_change_nothing():
    logits, tokens, lengths, prompts = case(4)
    assert torch.equal(penalize(logits, tokens, lengths, prompts, **neutral(4)), logits)


def test_forbidden_tokens_are_never_chosen():
    logits = forbid(torch.zeros(2, 4), torch.tensor([0, 0, 1]), torch.tensor([1, 3, 0]))
    assert logits.isneginf().tolist() == [[False, True, False, True], [True, False, False, False]]
