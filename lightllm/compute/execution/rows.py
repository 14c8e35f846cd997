"""What the device keeps of each running request beside the layers' states."""

import torch
from torch import Tensor

from lightllm.compute.state.zeros import zeros

_ALIGN = 16  # positions: kernels are compiled once more for lines that do not all begin at a multiple of 16 numbers


class Rows:
    """slot_table [rows + 1, longest] int32: the slot of each position; last_token [rows + 1] int64: what was sampled
    last; token_of_slot [slots + 1] int32: the token that ran in each slot, so that a context can be read back.

    The last row, `hold_row`, belongs to no request: padded sequences run in it, at position 0, in the hold slot.
    """

    def __init__(self, rows: int, longest: int, slots: int, device: torch.device):
        self.hold_row = rows
        self.slot_table = zeros((rows + 1, _width(longest)), torch.int32, device)
        self.last_token = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self.token_of_slot = zeros((slots + 1,), torch.int32, device)

    @staticmethod
    def table_bytes(rows: int, longest: int) -> int:
        """What a slot table takes on a device."""
        return 4 * (rows + 1) * _width(longest)

    @property
    def longest(self) -> int:
        """Positions of a row, somewhat more than asked for."""
        return self.slot_table.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """As ops.prepare_step takes them."""
        return self.slot_table, self.last_token, self.token_of_slot


def _width(longest: int) -> int:
    return -(-longest // _ALIGN) * _ALIGN
