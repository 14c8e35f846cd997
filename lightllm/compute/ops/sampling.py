"""From logits to tokens: temperature, top-k, top-p, min-p, a draw; and the log-probabilities of what was drawn."""

import torch
from torch import Tensor

from lightllm.compute.ops.op import TOLERANCE, Facts, op

FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)  # torch has signed 64-bit integers only; they wrap around as needed
SECOND = 0x94D049BB133111EB - (1 << 64)
NARROW_FIRST, NARROW_SECOND = 0x7FEB352D, 0x846CA68B
UNIT = (1 - 2**-23) / 2**32  # [0, 2^32] -> [0, 1) in float32, which would round the largest up to 1


def _draw_cases(facts: Facts):
    for rows, vocab in [(1, 50), (9, 5000), (12, 1031)]:
        logits = (torch.randn(rows, vocab, device=facts.device) * 4).to(facts.dtype)
        # Every combination of greedy, off and on comes up, as the three have periods that share no factor with 4.
        cycle = torch.arange(rows, device=facts.device)
        temperature = torch.tensor([0.6, 0.0, 1.0, 1.5], device=facts.device)[cycle % 4]
        top_k = torch.tensor([vocab, 1, 20], device=facts.device)[cycle % 3]
        top_p = torch.tensor([1.0, 0.9, 0.3, 1.0, 0.999], device=facts.device)[cycle % 5]
        min_p = torch.tensor([0.0, 0.0, 0.0, 0.02, 0.0, 0.0, 0.3], device=facts.device)[cycle % 7]
        seeds = torch.randint(-(2**62), 2**62, (rows,), device=facts.device)
        positions = torch.randint(0, 100_000, (rows,), device=facts.device)
        yield logits, temperature, top_k, top_p, min_p, seeds, positions


def _logprob_cases(facts: Facts):
    for rows, vocab, count in [(1, 50, 3), (5, 5000, 0)]:
        logits = (torch.randn(rows, vocab, device=facts.device) * 4).to(facts.dtype)
        yield logits, torch.randint(0, vocab, (rows,), device=facts.device), count


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function. Source: doi:10.1145/2660193.2660195."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def gumbel(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """-log(-log(1 - u)), u uniform in (0, 1): number `token` of the stream whose key is mix(mix(seed) + position).

    32 bits a token are enough, and computing with no more is several times quicker on a GPU: the lower half of the key
    is added to the token, the upper half comes in between two rounds of a hash. Source: lowbias32,
    github.com/skeeto/hash-prospector. seeds, positions [rows] int64; tokens [n] int64. Returns [rows, n] float32, the
    same whatever else is computed.
    """
    key, narrow = _mix(_mix(seeds) + positions).unsqueeze(-1), (1 << 32) - 1
    bits = tokens + key & narrow
    bits = (bits ^ bits >> 16) * NARROW_FIRST & narrow
    bits = (bits ^ bits >> 15 ^ key >> 32 & narrow) * NARROW_SECOND & narrow
    bits = bits ^ bits >> 16
    return -(-(-((bits.float() + 0.5) * UNIT)).log1p()).log()


def _greedy_cases(facts: Facts):
    for rows, vocab in [(1, 50), (9, 5000), (3, 1031)]:
        # Whole numbers, so that several tokens are the largest.
        yield (torch.randint(-9, 9, (rows, vocab), device=facts.device).to(facts.dtype),)


@op(cases=_greedy_cases)
def most_likely(logits: Tensor) -> Tensor:
    """The token of the largest logit, of several the first. logits [rows, vocab]; returns [rows] int64."""
    return logits.argmax(-1)


@op(cases=_draw_cases)
def draw(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    """argmax(x + gumbel noise) over the tokens that pass, x = (logits - largest) / temperature.

    Those pass that are among the top_k by x; then, of these, among the fewest likeliest that have top_p of the
    probability; then, that have min_p of the likeliest one's probability. Equals pass or fail together. Temperature 0:
    argmax(logits). logits [rows, vocab]; all others [rows]: top_k int64 in 1 ... vocab (vocab: off), temperature,
    top_p (1: off) and min_p (0: off) float32, seeds and positions int64. Returns [rows] int64.
    """
    logits = logits.float()
    x = (logits - logits.amax(-1, keepdim=True)) / temperature.where(temperature > 0, 1.0).unsqueeze(1)
    ordered = x.sort(dim=-1, descending=True).values
    kth = ordered.gather(1, top_k.unsqueeze(1) - 1)
    mass = (ordered.double().exp() * (ordered >= kth)).cumsum(-1)
    reached = mass >= top_p.unsqueeze(1) * mass[:, -1:]
    by_mass = ordered.gather(1, reached.to(torch.uint8).argmax(-1, keepdim=True))
    least = kth.maximum(by_mass.where(top_p.unsqueeze(1) < 1, kth)).maximum(min_p.log().unsqueeze(1))
    noisy = x.masked_fill(x < least, float("-inf")) + gumbel(
        seeds, positions, torch.arange(x.shape[1], device=x.device)
    )
    return noisy.argmax(-1).where(temperature > 0, logits.argmax(-1))


@op(cases=_logprob_cases, tolerance=TOLERANCE | {torch.bfloat16: 1e-5, torch.float16: 1e-5})
def logprobs(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """log softmax(logits) of `tokens` [rows] int64, and of the `count` likeliest tokens, computed in float32.

    logits [rows, vocab]. Returns [rows]; [rows, count] int64 tokens, likeliest first; and [rows, count].
    """
    logits = logits.float()
    total = logits.logsumexp(-1, keepdim=True)
    top, top_tokens = logits.topk(count)
    return (logits.gather(1, tokens.unsqueeze(1)) - total).squeeze(1), top_tokens, top - total
