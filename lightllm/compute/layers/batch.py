"""The tensors of one step, as the model's layers see it."""

from dataclasses import dataclass, replace

from torch import Tensor

from lightllm.compute.ops.attention import Sequences


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
    """The tokens of a step's sequences, laid end to end; all on the device.

    A padded sequence has length 1 and its position 0 in the hold slot, or no tokens and length 0.
    """

    tokens: Tensor  # [tokens] int64
    positions: Tensor  # [tokens] int64
    slots: Tensor  # [tokens] int64: where each token's state goes
    sequences: Sequences
    wanted: Wanted | None = None  # None: all tokens
    is_last_layer: bool = False

    def last_layer(self) -> "Batch":
        """What the last layer is given."""
        return self if self.wanted is None else replace(self, is_last_layer=True)

    def outputs(self, x: Tensor) -> Tensor:
        """Of x [tokens, ...] what belongs to the tokens that this layer has outputs for."""
        return x.index_select(0, self.wanted.token) if self.is_last_layer and self.wanted is not None else x

    def queries(self) -> Sequences:
        """The sequences as attention sees them, whose queries are of the tokens that this layer has outputs for."""
        if not self.is_last_layer or self.wanted is None:
            return self.sequences
        return Sequences(
            slot_table=self.sequences.slot_table,
            row=self.wanted.row,
            query_start=self.wanted.query_start,
            lengths=self.wanted.lengths,
            decodes=len(self.wanted.row),
            query_lengths=(),
            context_lengths=(),
        )
