"""What the device keeps of each running request beside the layers' states."""

import torch
from torch import Tensor

from lightllm.compute.state.zeros import zeros


class Rows:
    """slot_table [rows, longest] int32: the slot of each position; last_token [rows] int64: what was sampled last;
    token_of_slot [slots + 1] int32: the token that ran in each slot, so that a context can be read back.
    """

    def __init__(self, rows: int, longest: int, slots: int, device: torch.device):
        self.slot_table = zeros((rows, longest), torch.int32, device)
        self.last_token = torch.zeros(rows, dtype=torch.int64, device=device)
        self.token_of_slot = zeros((slots + 1,), torch.int32, device)

    @staticmethod
    def bytes(rows: int, longest: int, slots: int) -> int:
        """What such tensors take on a device."""
        return 4 * rows * longest + 8 * rows + 4 * (slots + 1)

    @property
    def longest(self) -> int:
        return self.slot_table.shape[1]

    def set_slots(self, entries: Tensor, slots: Tensor) -> None:
        """slot_table[entry // longest, entry % longest] = slot. entries, slots [n] int64."""
        self.slot_table.view(-1).index_copy_(0, entries, slots.to(torch.int32))

    def slots(self, entries: Tensor) -> Tensor:
        """The slots at these entries, int64."""
        return self.slot_table.view(-1).index_select(0, entries).long()

    def context(self, rows: Tensor, longest: int) -> Tensor:
        """Tokens of these rows at positions 0 ... longest - 1, [n, longest] int64; undefined past a row's length."""
        slots = self.slot_table[:, :longest].index_select(0, rows)
        return self.token_of_slot.index_select(0, slots.flatten()).view_as(slots).long()
