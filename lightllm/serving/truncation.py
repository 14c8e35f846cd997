"""What becomes of a prompt that is longer than it may be."""

import numpy as np

from lightllm.base.request import LongTruncation, SamplingParams


def truncated(tokens: np.ndarray, params: SamplingParams, *, most: int, mode: LongTruncation | None) -> np.ndarray:
    """The tokens [n] that a prompt keeps. The request's truncate_prompt_tokens is obeyed first, then `mode`.

    most: tokens that the server has room for; a prompt that is still longer loses its head, its center or its tail,
    or nothing where mode is None, so that it is refused.
    """
    side = "head" if params.truncation_side == "left" else "tail"
    keep = params.truncate_prompt_tokens
    if keep is not None:
        tokens = _shortened(tokens, max(most, 1) if keep == -1 else keep, side)
    return tokens if mode is None or most < 1 else _shortened(tokens, most, mode)


def _shortened(tokens: np.ndarray, keep: int, loses: LongTruncation) -> np.ndarray:
    if len(tokens) <= keep:
        return tokens
    if loses == "head":
        return tokens[-keep:]
    if loses == "tail":
        return tokens[:keep]
    # The odd token is one of the end, where a question stands.
    return np.concatenate([tokens[: keep // 2], tokens[len(tokens) - (keep - keep // 2) :]])
