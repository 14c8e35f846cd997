"""The memory of all tokens that are cached: one slot a token, the same slot in every layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightllm.compute.state.layer_state import Format, LayerState, Stateful
from lightllm.compute.state.zeros import zeros


class TokenPool:
    """Tensors [slots + 1, *shape] of each part of each layer; scales [slots + 1, *shape[:-1]] if the format has any.

    The last slot, `hold_slot`, is where padding goes.
    """

    def __init__(self, states: Sequence[LayerState], slots: int, form: Format, device: torch.device):
        self.slots, self.hold_slot = slots, slots
        self.layers: list[dict[str, Tensor]] = []
        for state in states:
            tensors = {}
            for name, part in state.parts.items():
                *outer, last = part.shape
                tensors[name] = zeros((slots + 1, *outer, last // form.packed), form.dtype, device)
                if form.scaled:
                    tensors[f"{name}_scale"] = zeros((slots + 1, *outer), torch.float32, device)
            self.layers.append(tensors)

    def bind(self, model: nn.Module) -> None:
        """Give each layer its tensors; layers come in the order their states did."""
        for layer, tensors in zip(stateful(model), self.layers, strict=True):
            layer.bind(tensors)


def stateful(model: nn.Module) -> list[Stateful]:
    """The layers of a model that remember, in order."""
    return [layer for layer in model.modules() if isinstance(layer, Stateful)]
