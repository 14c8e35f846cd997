"""The tensors of one step, as the model's layers see it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences laid end to end; the first `decodes` of them run exactly one token each.

    The tensors are on the device. The other fields are known to the host, so that nothing has to wait for the device.
    A padded sequence has length 1 and its position 0 in the hold slot.
    """

    tokens: Tensor  # [tokens] int64
    positions: Tensor  # [tokens] int64
    slots: Tensor  # [tokens] int64: where each token's state goes
    slot_table: Tensor  # [rows, positions] int32: the slot of each position of each row
    row: Tensor  # [sequences] int64
    query_start: Tensor  # [sequences + 1] int32: where each sequence's tokens begin
    lengths: Tensor  # [sequences] int32: context, this step's tokens included
    decodes: int
    query_lengths: Sequence[int]  # tokens of each sequence after the decodes
    context_lengths: Sequence[int]  # lengths of the sequences after the decodes
    max_length: int  # no length is larger
    memo: dict[Hashable, Any] = field(default_factory=dict)  # what attention works out once for all layers
