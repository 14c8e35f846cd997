"""Beam search as request bodies ask for it: `use_beam_search`, or `num_beams` and what goes with it."""

from typing import Any, Literal, Protocol

from lightllm.base.errors import RequestError


class Body(Protocol):
    """What the bodies of all routes that generate say of it."""

    @property
    def n(self) -> int | None: ...
    @property
    def use_beam_search(self) -> bool | None: ...
    @property
    def num_beams(self) -> int | None: ...
    @property
    def num_beam_groups(self) -> int | None: ...
    @property
    def diversity_penalty(self) -> float | None: ...
    @property
    def length_penalty(self) -> float | None: ...
    @property
    def early_stopping(self) -> bool | Literal["never"] | None: ...


def values(body: Body, *, best_of: int | None, stream: bool) -> dict[str, Any]:
    """What a body says of SamplingParams; None where it says nothing. With beam search best_of is the number of beams,
    of which there are n if nothing else is said."""
    stated = {
        "best_of": best_of,
        "num_beams": body.num_beams,
        "num_beam_groups": body.num_beam_groups,
        "diversity_penalty": body.diversity_penalty,
        "length_penalty": body.length_penalty,
        "early_stopping": body.early_stopping,
    }
    if not body.use_beam_search and body.num_beams is None:
        if stream and best_of not in (None, body.n or 1):
            raise RequestError(
                f"best_of={best_of} with stream=true: which are the best is known only at the end; make it n",
                param="best_of",
            )
        return stated
    if body.use_beam_search is False:
        raise RequestError("num_beams contradicts use_beam_search=false; leave one out", param="num_beams")
    if stream:
        raise RequestError("what beams find is known only at the end; leave stream out", param="stream")
    if best_of is not None and body.num_beams not in (None, best_of):
        raise RequestError(f"num_beams={body.num_beams} and best_of={best_of} disagree; give one", param="best_of")
    return stated | {"best_of": None, "num_beams": body.num_beams or best_of or body.n or 1}
