"""What a client asks of beam search, and what it cannot ask for at once with it."""

import functools
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from lightllm.base.errors import RequestError


class BeamOptions(msgspec.Struct, frozen=True, array_like=True):
    """How beams are searched for, as the engine is told."""

    width: int  # beams of all groups
    groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False


# Fields of SamplingParams. Beam search draws nothing and knows no text, so most of them have no effect on it.
_ONLY_BEAMS = {"num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping"}
_ALSO_BEAMS = {
    "n", "num_beams", "max_tokens", "min_tokens", "seed", "stop_token_ids", "ignore_eos", "logprobs",
    "skip_special_tokens", "shown_special_tokens", "include_stop_str_in_output", "truncate_prompt_tokens",
    "truncation_side", "long_truncation_mode",
}  # fmt: skip


def check_beams(params: msgspec.Struct, *, searches: bool) -> None:
    """Raises RequestError for what beam search cannot do or, without it, for what only it can do."""
    for name, default in _defaults(type(params)).items():
        value = getattr(params, name)
        is_idle = name not in _ONLY_BEAMS | _ALSO_BEAMS if searches else name in _ONLY_BEAMS
        # At temperature 0 nothing is drawn either.
        if is_idle and value != default and (name, value) != ("temperature", 0):
            where = "with beam search" if searches else "without beam search"
            raise RequestError(f"{name}={value!r} has no effect {where}; leave it out", param=name)


@functools.cache
def _defaults(kind: type[msgspec.Struct]) -> Mapping[str, Any]:
    """What each field is if nothing is said. Finding out takes 0.2 ms, more than all other checks of a request."""
    return {
        field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        for field in msgspec.structs.fields(kind)
    }
