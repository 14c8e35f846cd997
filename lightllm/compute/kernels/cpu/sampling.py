"""Drawing tokens on a CPU: noise and filters only for those rows, and as a rule for those tokens, that need them."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightllm.compute import ops
from lightllm.compute.kernels.cpu.needs import why_not
from lightllm.compute.ops.sampling import FIRST, NARROW_FIRST, NARROW_SECOND, SECOND, UNIT

WIDTHS = (64, 1024)  # likeliest tokens looked at first; if a row needs more, all are, with the same result
LOT_NUMBERS = 1 << 24  # bounds temporary tensors: 128 MiB of int64


@ops.draw.implementation("cpu", why_not)
def draw(
    logits: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, seeds: Tensor, positions: Tensor
) -> Tensor:
    vocab, is_random = logits.shape[1], temperature > 0
    is_filtered = (top_k < vocab) | (top_p < 1) | (min_p > 0)
    tokens = seeds.new_empty(len(logits)) if is_random.all() else logits.argmax(-1)
    for row in _lots(is_random & ~is_filtered, vocab):
        x = _tempered(logits[row], temperature[row])
        tokens[row] = x.add_(_gumbel(seeds[row], positions[row], torch.arange(vocab))).argmax(-1)
    for row in _lots(is_random & is_filtered, vocab):
        x, ids = candidates(_tempered(logits[row], temperature[row]), top_k[row], top_p[row], min_p[row])
        best = x.add_(_gumbel(seeds[row], positions[row], ids)).argmax(-1, keepdim=True)
        tokens[row] = ids.gather(1, best).squeeze(1)
    return tokens


@ops.penalize.implementation("cpu", why_not)
def penalize(
    logits: Tensor,
    which: Tensor,
    row: Tensor,
    lengths: Tensor,
    prompt_lengths: Tensor,
    repetition: Tensor,
    presence: Tensor,
    frequency: Tensor,
    longest: int,
    slot_table: Tensor,
    token_of_slot: Tensor,
) -> Tensor:
    """The reference, some sequences at a time."""
    count = _lot(max(longest, logits.shape[1]))
    for start in range(0, len(which), count):
        lot = slice(start, start + count)
        ops.penalize.reference(
            logits,
            which[lot],
            row[lot],
            lengths[lot],
            prompt_lengths[lot],
            repetition[lot],
            presence[lot],
            frequency[lot],
            longest,
            slot_table,
            token_of_slot,
        )
    return logits


def candidates(
    x: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, *, widths: tuple[int, ...] = WIDTHS
) -> tuple[Tensor, Tensor]:
    """The tokens that pass all filters, likeliest first.

    x [rows, vocab] float32, the largest of a row 0; the others [rows] as for ops.draw. Returns values [rows, width],
    -inf for tokens that do not pass, and their tokens [rows, width] int64.
    """
    vocab = x.shape[1]
    width = min(widths[0], vocab)
    values, tokens = x.topk(width)
    least = _threshold(values, x, top_k, top_p, min_p)
    if width < vocab and not bool((values[:, -1] < least).all()):
        return candidates(x, top_k, top_p, min_p, widths=(*widths[1:], vocab))
    return values.masked_fill_(values < least.unsqueeze(1), float("-inf")), tokens


def _threshold(values: Tensor, x: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """The smallest x that passes, judged by the largest ones; right if it is above the least of them.

    values [rows, width]: the largest of x, descending. Returns [rows].
    """
    lowest, width, vocab = values.new_tensor(float("-inf")), values.shape[1], x.shape[1]
    by_count = values.gather(1, (top_k.clamp(max=width) - 1).unsqueeze(1)).squeeze(1)
    by_count = by_count.where(top_k <= width, lowest)
    # Sums in float64 do not depend on the width, as far as anyone can tell.
    mass = (values.double().exp() * (values >= by_count.unsqueeze(1))).cumsum(-1)
    all_mass = mass[:, -1] if width == vocab else mass[:, -1].where(top_k < vocab, x.exp().sum(-1, dtype=torch.double))
    reached = mass >= (top_p * all_mass).unsqueeze(1)
    by_mass = values.gather(1, reached.to(torch.uint8).argmax(-1, keepdim=True)).squeeze(1)
    by_mass = by_mass.where(reached.any(-1) & (top_p < 1), lowest)
    # The mass of k tokens is unknown where fewer were looked at.
    is_known = (top_k <= width) | (top_k == vocab) | (top_p == 1)
    return by_count.maximum(by_mass).maximum(min_p.log()).where(is_known, lowest)


def _tempered(logits: Tensor, temperature: Tensor) -> Tensor:
    """(logits - largest) / temperature in float32: finite or -inf, however small the temperature."""
    logits = logits.float()
    return (logits - logits.amax(-1, keepdim=True)).div_(temperature.unsqueeze(1))


def _gumbel(seeds: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """ops.sampling.gumbel without temporary tensors; tokens [n] or [rows, n]."""
    key, narrow = _mix(_mix(seeds.clone()) + positions).unsqueeze(-1), (1 << 32) - 1
    bits = (tokens + key).bitwise_and_(narrow)
    bits = _shift_xor(bits, 16).mul_(NARROW_FIRST).bitwise_and_(narrow)
    bits = _shift_xor(bits, 15).bitwise_xor_(key >> 32 & narrow).mul_(NARROW_SECOND).bitwise_and_(narrow)
    return _shift_xor(bits, 16).float().add_(0.5).mul_(UNIT).neg_().log1p_().neg_().log_().neg_()


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function, in place."""
    x = _shift_xor(x, 30).mul_(FIRST)
    return _shift_xor(_shift_xor(x, 27).mul_(SECOND), 31)


def _shift_xor(x: Tensor, shift: int) -> Tensor:
    """x ^= x >> shift, unsigned."""
    return x.bitwise_xor_((x >> shift).bitwise_and_((1 << (64 - shift)) - 1))


def _lots(chosen: Tensor, vocab: int) -> Iterator[Tensor]:
    """Numbers of the chosen rows [n], cut so that no lot has more than LOT_NUMBERS logits; one lot as a rule."""
    rows = chosen.nonzero().squeeze(1)
    return iter(rows.split(_lot(vocab)) if len(rows) else ())


def _lot(numbers: int) -> int:
    """Rows of so many numbers that are computed at once."""
    return max(LOT_NUMBERS // numbers, 1)
