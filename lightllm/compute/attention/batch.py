"""The tensors of one step, as the model's layers see it."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Wanted:
    """The last tokens of n sequences: of no others are hidden states wanted of the model.

    So the last layer's attention has their queries only, each like a decode, and what follows it has fewer tokens.
    """

    token: Tensor  # [n] int64: place in the batch
    row: Tensor  # [n] int64
    query_start: Tensor  # [n + 1] int32: 0 ... n
    lengths: Tensor  # [n] int32: context, this step's tokens included


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences laid end to end; the first `decodes` of them run exactly one token each.

    The tensors are on the device. The other fields are known to the host, so that nothing has to wait for the device.
    A padded sequence has length 1 and its position 0 in the hold slot, or no tokens and length 0. Where the host knows
    bounds only, the last two of what it knows of chunks are as ops.attend says.
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
    context_lengths: Sequence[int] | None  # lengths of the sequences after the decodes
    max_length: int  # no length is larger
    memo: dict[Hashable, Any] = field(default_factory=dict)  # what attention works out once for all layers
    wanted: Wanted | None = None  # None: all tokens
    is_last_layer: bool = False

    def last_layer(self) -> "Batch":
        """What the last layer is given."""
        return self if self.wanted is None else replace(self, is_last_layer=True)

    def outputs(self, x: Tensor) -> Tensor:
        """Of x [tokens, ...] what belongs to the tokens that this layer has outputs for."""
        return x.index_select(0, self.wanted.token) if self.is_last_layer and self.wanted is not None else x

    def queries(self) -> "Batch":
        """The batch as attention sees it, whose queries are of the tokens that this layer has outputs for."""
        if not self.is_last_layer or self.wanted is None:
            return self
        return replace(
            self,
            row=self.wanted.row,
            query_start=self.wanted.query_start,
            lengths=self.wanted.lengths,
            decodes=len(self.wanted.row),
            query_lengths=(),
            context_lengths=(),
            memo={},
        )
