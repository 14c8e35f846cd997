# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""Drawing tokens, and log-probabilities, in few passes over the logits and without sorting them.

Rows are cut into chunks of the vocabulary, a program each, so that one row fills the device too. Three kernels draw:
the first finds the largest logit of each chunk; the second, which knows the largest of the row by then, finds the
token with the largest noisy logit, or, where tokens are filtered, counts logits by their distance from the largest;
the third has a program a row, which joins the chunks. Where tokens are filtered the counts tell it a distance within
which all tokens lie that may pass; there are few of these as a rule, and it finds the threshold among them by halving.
All random numbers and sums are the same whatever other rows there are.

Suffixes: V tokens of the vocabulary, C chunks of a row, B bins of a histogram.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from lightllm.compute import ops
from lightllm.compute.kernels.triton.launch import begin, cdiv, depends, next_power_of_2, why_not
from lightllm.compute.ops import sampling

CHUNK = 4096
BINS = tl.constexpr(256)
BINS_A_UNIT = tl.constexpr(8)  # so bins cover logits to 32 below the largest; what is beyond weighs exp(-32) at most
MOST_CANDIDATES = 8192  # of a row; if more may pass, the threshold is searched for among all tokens
SLACK = tl.constexpr(1e-4)  # of a probability: more than float32 sums of a vocabulary are wrong by
WARPS = 8
FIRST = tl.constexpr(sampling.FIRST & (1 << 64) - 1)
SECOND = tl.constexpr(sampling.SECOND & (1 << 64) - 1)
NARROW_FIRST = tl.constexpr(sampling.NARROW_FIRST)
NARROW_SECOND = tl.constexpr(sampling.NARROW_SECOND)
UNIT = tl.constexpr(sampling.UNIT)
MARGIN = tl.constexpr(1.001)  # more than the quick arithmetic of a race is wrong by


@triton.jit
def _mix(x):
    """SplitMix64's output function, on uint64."""
    x = (x ^ (x >> 30)) * FIRST
    x = (x ^ (x >> 27)) * SECOND
    return x ^ (x >> 31)


@triton.jit
def _key(seed, position):
    return _mix(_mix(seed.to(tl.uint64)) + position.to(tl.uint64))


@triton.jit
def _uniform(key, token_V):
    """The u of ops.sampling.gumbel for these tokens, to the bit."""
    bits_V = token_V.to(tl.uint32) + key.to(tl.uint32)
    bits_V = (bits_V ^ (bits_V >> 16)) * NARROW_FIRST
    bits_V = (bits_V ^ (bits_V >> 15) ^ (key >> 32).to(tl.uint32)) * NARROW_SECOND
    bits_V = bits_V ^ (bits_V >> 16)
    return (bits_V.to(tl.float32) + 0.5) * UNIT


@triton.jit
def _gumbel(key, token_V):
    return -libdevice.log(-libdevice.log1p(-_uniform(key, token_V)))


@triton.jit
def _is_filtered(top_k, top_p, min_p, vocab):
    return (top_k < vocab) | (top_p < 1.0) | (min_p > 0.0)


@triton.jit
def _race(x_V, base, key, first, CHUNK: tl.constexpr):
    """The largest x + noise of a chunk of tokens from `first` on, and its token. base: the largest x.

    The noise is -log(e), e = -log(1 - u), so the largest is that of the smallest e / exp(x). As e is not below u, only
    tokens with a small u / exp(x) can have it: a handful, for which alone logarithms are taken.
    """
    index_V = tl.arange(0, CHUNK)
    # Where nothing is allowed any finite base keeps NaN away.
    base = tl.where(base == float("-inf"), 0.0, base)
    least_V = _uniform(key, first + index_V) * tl.exp(base - x_V)
    best, chosen, bound = float("-inf"), 0, float("inf")
    least = tl.min(least_V, axis=0)
    racing = True
    while racing:
        index = tl.min(tl.where(least_V == least, index_V, CHUNK), axis=0)
        noisy = tl.max(tl.where(index_V == index, x_V, float("-inf")), axis=0) + _gumbel(key, first + index)
        is_better = (noisy > best) | ((noisy == best) & (index < chosen))
        chosen = tl.where(is_better, index, chosen)
        best = tl.where(is_better, noisy, best)
        bound = tl.exp(base - best) * MARGIN
        least_V = tl.where(index_V == index, float("inf"), least_V)
        least = tl.min(least_V, axis=0)
        racing = (least <= bound) & (least < float("inf"))
    return best, first + chosen


@triton.jit
def _largest_of_row(largest, chunks, CHUNKS: tl.constexpr):
    index_C = tl.arange(0, CHUNKS)
    largest_C = tl.load(largest + index_C, mask=index_C < chunks, other=float("-inf"))
    return tl.max(largest_C, axis=0), tl.argmax(largest_C, axis=0)


@triton.jit
def _find_largest(
    logits, largest, tokens, histogram, vocab, chunks, stride,
    CHUNK: tl.constexpr, BINS: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """largest, tokens [rows, chunks]: each chunk's largest logit and its token. Clears any histogram [rows, BINS]."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token_V = chunk * CHUNK + tl.arange(0, CHUNK)
    begin(DEPENDENT)
    logit_V = tl.load(logits + row * stride + token_V, mask=token_V < vocab, other=float("-inf")).to(tl.float32)
    tl.store(largest + row * chunks + chunk, tl.max(logit_V, axis=0))
    tl.store(tokens + row * chunks + chunk, chunk * CHUNK + tl.argmax(logit_V, axis=0))
    if histogram is not None:  # noqa: SIM102 (known when compiled)
        if chunk == 0:
            bin_B = tl.arange(0, BINS)
            tl.store(histogram + row * BINS + bin_B, tl.zeros([BINS], tl.int32))


@triton.jit
def _token_of_row(largest, tokens, out, chunks, CHUNKS: tl.constexpr, DEPENDENT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    begin(DEPENDENT)
    _, chunk = _largest_of_row(largest + row * chunks, chunks, CHUNKS)
    tl.store(out + row, tl.load(tokens + row * chunks + chunk).to(tl.int64))


@ops.most_likely.implementation("triton", why_not)
def most_likely(logits: Tensor) -> Tensor:
    assert logits.stride(1) == 1, "a row of logits lies in a run"
    (rows, vocab), chunks = logits.shape, cdiv(logits.shape[1], CHUNK)
    largest = torch.empty(rows, chunks, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(rows, chunks, dtype=torch.int32, device=logits.device)
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    options = {"DEPENDENT": depends(logits.device), "launch_pdl": depends(logits.device)}
    _find_largest[(rows, chunks)](
        logits, largest, tokens, None, vocab, chunks, logits.stride(0), CHUNK=CHUNK, BINS=0, num_warps=WARPS, **options
    )
    _token_of_row[(rows,)](largest, tokens, out, chunks, CHUNKS=next_power_of_2(chunks), num_warps=1, **options)
    return out


@triton.jit
def _draw_chunk(
    logits, largest, noisy, noisy_tokens, histogram, temperatures, top_ks, top_ps, min_ps, seeds, positions,
    vocab, chunks, stride,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, BINS: tl.constexpr, BINS_A_UNIT: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """noisy, noisy_tokens [rows, chunks]: the largest noisy logit of each chunk, or, of rows that are filtered, the
    chunk's sum of exp(x); these add to histogram [rows, BINS], too. Rows of temperature 0 need nothing."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token_V = chunk * CHUNK + tl.arange(0, CHUNK)
    begin(DEPENDENT)
    temperature = tl.load(temperatures + row)
    if temperature > 0.0:
        top, _ = _largest_of_row(largest + row * chunks, chunks, CHUNKS)
        logit_V = tl.load(logits + row * stride + token_V, mask=token_V < vocab, other=float("-inf")).to(tl.float32)
        x_V = tl.div_rn(logit_V - top, temperature)
        if _is_filtered(tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row), vocab):
            tl.store(noisy + row * chunks + chunk, tl.sum(tl.exp(x_V), axis=0))
            is_near_V = x_V * -BINS_A_UNIT < BINS
            bin_V = tl.where(is_near_V, x_V * -BINS_A_UNIT, 0.0).to(tl.int32)
            count_B = tl.histogram(bin_V, BINS, mask=is_near_V)
            tl.atomic_add(histogram + row * BINS + tl.arange(0, BINS), count_B, mask=count_B > 0, sem="relaxed")
        else:
            key = _key(tl.load(seeds + row), tl.load(positions + row))
            base = tl.div_rn(tl.load(largest + row * chunks + chunk) - top, temperature)
            best, chosen = _race(x_V, base, key, chunk * CHUNK, CHUNK)
            tl.store(noisy + row * chunks + chunk, best)
            tl.store(noisy_tokens + row * chunks + chunk, chosen)


@triton.jit
def _values(source, start, count, top, temperature, BLOCK: tl.constexpr, IS_LOGITS: tl.constexpr):
    """Numbers start ... start + BLOCK - 1 of `count`: logits to be tempered, or what has been. -inf past the end."""
    at_V = start + tl.arange(0, BLOCK)
    value_V = tl.load(source + at_V, mask=at_V < count, other=float("-inf")).to(tl.float32)
    return tl.div_rn(value_V - top, temperature) if IS_LOGITS else value_V


@triton.jit
def _mass_from(source, count, least, top, temperature, BLOCK: tl.constexpr, IS_LOGITS: tl.constexpr):
    """Of values not below `least`: how many, the sum of exp(value), the least; and the largest of the others."""
    number, mass, above, below = 0, 0.0, float("inf"), float("-inf")
    for start in range(0, count, BLOCK):
        value_V = _values(source, start, count, top, temperature, BLOCK, IS_LOGITS)
        passes_V = (value_V >= least) & (start + tl.arange(0, BLOCK) < count)
        number += tl.sum(passes_V.to(tl.int32), axis=0)
        mass += tl.sum(tl.where(passes_V, tl.exp(value_V), 0.0), axis=0)
        above = tl.minimum(above, tl.min(tl.where(passes_V, value_V, float("inf")), axis=0))
        below = tl.maximum(below, tl.max(tl.where(passes_V, float("-inf"), value_V), axis=0))
    return number, mass, above, below


@triton.jit
def _largest_with(
    source, count, least_number, least_mass, top, temperature, BLOCK: tl.constexpr, IS_LOGITS: tl.constexpr
):
    """The largest value such that those not below it are that many and weigh that much, and what these weigh.

    -inf if all finite values are not enough.
    """
    # The answer is not below `low`, a value that is low enough, and below `high`; no value is above 0.
    low, low_mass, high, middle = float("-inf"), 0.0, 1.0, -3.0e38
    searching = True
    while searching:
        number, mass, above, below = _mass_from(source, count, middle, top, temperature, BLOCK, IS_LOGITS)
        is_enough = (number >= least_number) & (mass >= least_mass)
        # No value is left between the two if the largest below the middle is `low`, or no number lies between them.
        is_left = is_enough | (below > low)
        low, low_mass = tl.where(is_enough, above, low), tl.where(is_enough, mass, low_mass)
        high = tl.where(is_enough, high, middle)
        middle = low + (high - low) * 0.5
        searching = (middle > low) & (middle < high) & is_left
    return low, low_mass


@triton.jit
def _draw_passing(
    source, ids, count, top_k, top_p, min_p, mass, key, top, temperature, vocab,
    BLOCK: tl.constexpr, IS_LOGITS: tl.constexpr,
):  # fmt: skip
    """The token with the largest noisy value among those that pass. mass: the sum of exp(x) over the vocabulary."""
    least = tl.log(min_p)
    # A loop, so that the search is compiled once: by number first, then by the mass of those that this leaves.
    for by_mass in range(2):
        if tl.where(by_mass == 1, top_p < 1.0, top_k < vocab):
            found, found_mass = _largest_with(
                source, count, tl.where(by_mass == 1, 0, top_k), tl.where(by_mass == 1, top_p * mass, 0.0),
                top, temperature, BLOCK, IS_LOGITS,
            )  # fmt: skip
            least = tl.maximum(least, found)
            mass = tl.where(by_mass == 1, mass, found_mass)
    best, chosen = float("-inf"), 0
    for start in range(0, count, BLOCK):
        value_V = _values(source, start, count, top, temperature, BLOCK, IS_LOGITS)
        at_V = start + tl.arange(0, BLOCK)
        token_V = at_V if IS_LOGITS else tl.load(ids + at_V, mask=at_V < count, other=0)
        noisy_V = tl.where(value_V >= least, value_V + _gumbel(key, token_V), float("-inf"))
        best_here = tl.max(noisy_V, axis=0)
        token = tl.min(tl.where(noisy_V == best_here, token_V, vocab), axis=0)
        chosen = tl.where(best_here > best, token, chosen)
        best = tl.maximum(best, best_here)
    return chosen


@triton.jit
def _cutoff(histogram, top_k, top_p, min_p, mass, vocab, BINS: tl.constexpr, BINS_A_UNIT: tl.constexpr):
    """A value that no passing token is below, and below which no token matters."""
    bin_B = tl.arange(0, BINS)
    count_B = tl.load(histogram + bin_B)
    least = tl.log(min_p)
    if top_k < vocab:
        # With top-p on top of it, the mass of all of these must be known.
        by_count = tl.min(tl.where(tl.cumsum(count_B, axis=0) >= top_k, bin_B, BINS), axis=0)
        cutoff = tl.where(by_count < BINS, (by_count + 1).to(tl.float32) / -BINS_A_UNIT, float("-inf"))
        cutoff = tl.where(top_p < 1.0, cutoff, tl.maximum(cutoff, least))
    else:
        # What lies below a bin weighs at most as much as if all were at the upper edges of their bins.
        weight_B = count_B.to(tl.float32) * tl.exp(bin_B.to(tl.float32) / -BINS_A_UNIT)
        beyond = (vocab - tl.sum(count_B, axis=0)).to(tl.float32) * tl.exp(BINS / -BINS_A_UNIT * 1.0)
        below_B = tl.sum(weight_B, axis=0) - tl.cumsum(weight_B, axis=0) + beyond
        is_enough_B = (mass - below_B) >= (top_p + SLACK) * mass
        by_mass = tl.min(tl.where(is_enough_B, bin_B, BINS), axis=0)
        by_mass = tl.where(by_mass < BINS, (by_mass + 1).to(tl.float32) / -BINS_A_UNIT, float("-inf"))
        cutoff = tl.maximum(tl.where(top_p < 1.0, by_mass, float("-inf")), least)
    return cutoff


@triton.jit
def _finish_row(
    logits, largest, tokens, noisy, noisy_tokens, histogram, values, ids, out, temperatures, top_ks, top_ps, min_ps,
    seeds, positions, vocab, chunks, stride, room,
    CHUNK: tl.constexpr, CHUNKS: tl.constexpr, BINS: tl.constexpr, BINS_A_UNIT: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Joins the chunks of a row. values, ids [rows, room]: memory for tokens that may pass."""
    row = tl.program_id(0).to(tl.int64)
    begin(DEPENDENT)
    temperature = tl.load(temperatures + row)
    top_k, top_p, min_p = tl.load(top_ks + row), tl.load(top_ps + row), tl.load(min_ps + row)
    top, best_chunk = _largest_of_row(largest + row * chunks, chunks, CHUNKS)
    chosen = tl.load(tokens + row * chunks + best_chunk)
    if temperature > 0.0:
        if not _is_filtered(top_k, top_p, min_p, vocab):
            _, best_chunk = _largest_of_row(noisy + row * chunks, chunks, CHUNKS)
            chosen = tl.load(noisy_tokens + row * chunks + best_chunk)
        else:
            index_C = tl.arange(0, CHUNKS)
            mass = tl.sum(tl.load(noisy + row * chunks + index_C, mask=index_C < chunks, other=0.0), axis=0)
            cutoff = _cutoff(histogram + row * BINS, top_k, top_p, min_p, mass, vocab, BINS, BINS_A_UNIT)
            logits += row * stride
            values += row * room
            ids += row * room
            count = 0
            for chunk in range(chunks):
                if tl.div_rn(tl.load(largest + row * chunks + chunk) - top, temperature) >= cutoff:
                    value_V = _values(logits, chunk * CHUNK, vocab, top, temperature, CHUNK, True)
                    token_V = chunk * CHUNK + tl.arange(0, CHUNK)
                    is_candidate_V = (value_V >= cutoff) & (token_V < vocab)
                    at_V = count + tl.cumsum(is_candidate_V.to(tl.int32), axis=0) - 1
                    tl.store(values + at_V, value_V, mask=is_candidate_V & (at_V < room))
                    tl.store(ids + at_V, token_V, mask=is_candidate_V & (at_V < room))
                    count += tl.sum(is_candidate_V.to(tl.int32), axis=0)
            key = _key(tl.load(seeds + row), tl.load(positions + row))
            if count <= room:
                # Written by other threads of this program.
                tl.debug_barrier()
                chosen = _draw_passing(
                    values, ids, count, top_k, top_p, min_p, mass, key, top, temperature, vocab, CHUNK // 4, False
                )
            else:
                chosen = _draw_passing(
                    logits, ids, vocab, top_k, top_p, min_p, mass, key, top, temperature, vocab, CHUNK, True
                )
    tl.store(out + row, chosen.to(tl.int64))


@ops.draw.implementation("triton", why_not)
def draw(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    assert logits.stride(1) == 1, "a row of logits lies in a run"
    (rows, vocab), make = logits.shape, {"device": logits.device}
    chunks, dependent = cdiv(vocab, CHUNK), depends(logits.device)
    out = torch.empty(rows, dtype=torch.int64, **make)
    # One by one, so that each begins at a multiple of 16 bytes whatever the number of rows.
    largest, noisy = (torch.empty(rows, chunks, dtype=torch.float32, **make) for _ in range(2))
    tokens, noisy_tokens = (torch.empty(rows, chunks, dtype=torch.int32, **make) for _ in range(2))
    histogram = torch.empty(rows, BINS.value, dtype=torch.int32, **make)
    room = min(MOST_CANDIDATES, vocab)
    values = torch.empty(rows, room, dtype=torch.float32, **make)
    ids = torch.empty(rows, room, dtype=torch.int32, **make)
    options = {"CHUNK": CHUNK, "BINS": BINS.value, "DEPENDENT": dependent, "launch_pdl": dependent, "num_warps": WARPS}
    more = {"CHUNKS": next_power_of_2(chunks), "BINS_A_UNIT": BINS_A_UNIT.value}
    wanted = (temperature, top_k, top_p, min_p, seeds, positions)
    sizes = (vocab, chunks, logits.stride(0))
    _find_largest[(rows, chunks)](logits, largest, tokens, histogram, *sizes, **options)
    _draw_chunk[(rows, chunks)](logits, largest, noisy, noisy_tokens, histogram, *wanted, *sizes, **options, **more)
    _finish_row[(rows,)](
        logits, largest, tokens, noisy, noisy_tokens, histogram, values, ids, out, *wanted, *sizes, room,
        **options, **more,
    )  # fmt: skip
    return out


@triton.jit
def _sum_chunk(logits, largest, mass, vocab, chunks, stride, CHUNK: tl.constexpr, DEPENDENT: tl.constexpr):
    """largest, mass [rows, chunks]: of each chunk the largest logit, and the sum of exp(logit - largest)."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token_V = chunk * CHUNK + tl.arange(0, CHUNK)
    begin(DEPENDENT)
    logit_V = tl.load(logits + row * stride + token_V, mask=token_V < vocab, other=float("-inf")).to(tl.float32)
    top = tl.max(logit_V, axis=0)
    # A chunk of which nothing is allowed has no finite logit.
    base = tl.where(top == float("-inf"), 0.0, top)
    tl.store(largest + row * chunks + chunk, top)
    tl.store(mass + row * chunks + chunk, tl.sum(tl.exp(logit_V - base), axis=0))


@triton.jit
def _sum_row(
    logits, largest, mass, tokens, totals, chosen, chunks, stride, CHUNKS: tl.constexpr, DEPENDENT: tl.constexpr
):
    """totals [rows]: the logarithm of the sum of exp(logit); chosen [rows]: logits[token] less that."""
    row = tl.program_id(0).to(tl.int64)
    index_C = tl.arange(0, CHUNKS)
    begin(DEPENDENT)
    largest_C = tl.load(largest + row * chunks + index_C, mask=index_C < chunks, other=float("-inf"))
    mass_C = tl.load(mass + row * chunks + index_C, mask=index_C < chunks, other=0.0)
    top = tl.max(largest_C, axis=0)
    total = top + tl.log(tl.sum(mass_C * tl.exp(largest_C - top), axis=0))
    tl.store(totals + row, total)
    tl.store(chosen + row, tl.load(logits + row * stride + tl.load(tokens + row)).to(tl.float32) - total)


@ops.logprobs.implementation("triton", why_not)
def logprobs(logits: Tensor, tokens: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    assert logits.stride(1) == 1, "a row of logits lies in a run"
    rows, vocab = logits.shape
    chunks, dependent = cdiv(vocab, CHUNK), depends(logits.device)
    largest, mass = (torch.empty(rows, chunks, dtype=torch.float32, device=logits.device) for _ in range(2))
    totals, chosen = (torch.empty(rows, dtype=torch.float32, device=logits.device) for _ in range(2))
    _sum_chunk[(rows, chunks)](
        logits, largest, mass, vocab, chunks, logits.stride(0),
        CHUNK=CHUNK, DEPENDENT=dependent, launch_pdl=dependent, num_warps=WARPS,
    )  # fmt: skip
    _sum_row[(rows,)](
        logits, largest, mass, tokens, totals, chosen, chunks, logits.stride(0),
        CHUNKS=next_power_of_2(chunks), DEPENDENT=dependent, launch_pdl=dependent, num_warps=1,
    )  # fmt: skip
    top, top_tokens = logits.topk(count)
    return chosen, top_tokens, top.float() - totals.unsqueeze(1)
