"""A model without the blocks that launch what others launch: enough to meet every kernel, in a fraction of the time."""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightllm.compute.layers.decoder import CausalLM


@contextmanager
def shortened(model: CausalLM) -> Iterator[None]:
    """While it lasts the model has one block of each kind, and the last one, which computes fewer tokens than the
    others. What it computes then means nothing."""
    blocks = model.model.layers
    kinds = {_kind(block): block for block in reversed(blocks)}
    model.model.layers = nn.ModuleList([*kinds.values(), blocks[-1]])
    try:
        yield
    finally:
        model.model.layers = blocks


def _kind(block: nn.Module) -> Hashable:
    """All that a block was made with and holds, but for its name and the numbers in its tensors."""
    return tuple(
        (path, type(module), tuple((name, _trait(value)) for name, value in sorted(vars(module).items())))
        for path, module in block.named_modules()
    )


def _trait(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, Mapping):
        return tuple((name, _trait(one)) for name, one in sorted(value.items()))
    return value if isinstance(value, (bool, int, float, str, type(None))) else type(value)
