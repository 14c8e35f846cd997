"""Log-probabilities of the raw logits: before penalties, temperature and filters."""

from torch import Tensor


def logprobs(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """log softmax(logits) of `tokens` [rows] int64, and of the `count` likeliest tokens.

    logits [rows, vocab] float32. Returns [rows] float32; [rows, count] int64 tokens, likeliest first; and
    [rows, count] float32.
    """
    total = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, tokens.unsqueeze(1)) - total
    top, top_tokens = logits.topk(min(count, logits.shape[1]))
    return chosen.squeeze(1), top_tokens, top - total
