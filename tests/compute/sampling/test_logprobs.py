import torch

from lightllm.compute.sampling.logprobs import logprobs


def test_equals_log_softmax():
    torch.manual_seed(0)
    logits, tokens = torch.randn(4, 300) * 5, torch.tensor([0, 299, 7, 7])
    chosen, top_tokens, top = logprobs(logits, tokens, 5)
    expected = logits.double().log_softmax(-1)
    torch.testing.assert_close(chosen.double(), expected[range(4), tokens], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(top.double(), expected.topk(5).values, atol=1e-5, rtol=1e-5)
    assert torch.equal(top_tokens, expected.topk(5).indices)


def test_none_of_the_likeliest_may_be_wanted():
    chosen, top_tokens, top = logprobs(torch.zeros(2, 10), torch.tensor([1, 2]), 0)
    assert top_tokens.shape == top.shape == (2, 0)
    torch.testing.assert_close(chosen, torch.full((2,), 0.1).log())
