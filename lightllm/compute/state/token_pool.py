"""The memory of all tokens that are cached: one slot a token, the same slot in every layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightllm.compute.state.layer_state import LayerState, Stateful
from lightllm.compute.state.zeros import zeros


class TokenPool:
    """Tensors [slots + 1, *shape] for each part of each layer. The last slot, `hold_slot`, is where padding goes."""

    def __init__(self, states: Sequence[LayerState], slots: int, dtype: torch.dtype, device: torch.device):
        self.slots, self.hold_slot = slots, slots
        self.layers: list[dict[str, Tensor]] = [
            {name: zeros((slots + 1, *part.shape), dtype, device) for name, part in state.parts.items()}
            for state in states
        ]

    def bind(self, model: nn.Module) -> None:
        """Give each layer its tensors; layers come in the order their states did."""
        for layer, tensors in zip(stateful(model), self.layers, strict=True):
            layer.bind(tensors)


def stateful(model: nn.Module) -> list[Stateful]:
    """The layers of a model that remember, in order."""
    return [layer for layer in model.modules() if isinstance(layer, Stateful)]
