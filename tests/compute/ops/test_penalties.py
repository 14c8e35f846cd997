import numpy as np
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from lightllm.compute.kernels.cpu import sampling
from lightllm.compute.ops.op import Facts
from lightllm.compute.ops.penalties import _cases, context, penalize, penalized

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
    got = penalized(
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
    got = penalized(logits, tokens, lengths, prompts, **neutral(5) | {"repetition": torch.full((5,), 1.3)})
    for row in range(5):
        expected = RepetitionPenaltyLogitsProcessor(1.3)(tokens[row, None, : lengths[row]], logits[row, None].clone())
        assert torch.equal(got[row], expected[0])


def test_neutral_penalties_change_nothing():
    logits, tokens, lengths, prompts = case(4)
    assert torch.equal(penalized(logits, tokens, lengths, prompts, **neutral(4)), logits)


def test_context_is_read_back_through_the_slot_table():
    table = torch.tensor([[4, 9, 2, 30, 7], [0, 0, 0, 0, 0], [4, 9, 5, 6, 0]], dtype=torch.int32)
    token_of_slot = torch.zeros(31, dtype=torch.int32)
    token_of_slot[[4, 9, 2, 30, 7, 5, 6]] = torch.tensor([10, 11, 12, 13, 16, 14, 15], dtype=torch.int32)
    got = context(torch.tensor([2, 0]), 5, table, token_of_slot)
    assert got[0, :4].tolist() == [10, 11, 14, 15]
    assert got[1].tolist() == [10, 11, 12, 13, 16]


def test_lots_of_any_size_penalize_the_same(monkeypatch):
    torch.manual_seed(0)
    for logits, *others in _cases(Facts(torch.device("cpu"), torch.float32)):
        expected = penalize.reference(logits.clone(), *others)
        monkeypatch.setattr(sampling, "LOT_NUMBERS", 2 * logits.shape[1])
        assert torch.equal(sampling.penalize(logits.clone(), *others), expected)
