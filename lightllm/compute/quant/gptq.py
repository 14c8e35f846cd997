"""4-bit weights as GPTQ packs them: eight inputs a number (`qweight`), zero points less one (`qzeros`), `g_idx`.

Source: arXiv:2210.17323; with act-order (desc_act) inputs were quantized by how much they matter, and `g_idx` says to
which group each belongs.
"""

from dataclasses import dataclass, field
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute.ops.awq import PACKED
from lightllm.compute.quant.int4 import Int4, joined, packed_as_awq, unpacked_in_order
from lightllm.compute.weights.share import Share, block_of, blocks, whole
from lightllm.compute.weights.weight import Computed, Conversion, Declared, Matrix, Part, Run, Weight


@dataclass
class Alike:
    """Lets the first of several tensors pass, if it names none but these groups, and others that are equal to it."""

    modules: str
    groups: int
    seen: Tensor | None = None
    lock: Lock = field(default_factory=Lock)

    def __call__(self, groups: Tensor) -> Tensor:
        with self.lock:
            if self.seen is None:
                if len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < self.groups:
                    raise ConfigError(f"{self.modules}: g_idx names groups that are not among the {self.groups}")
                self.seen = groups.clone()
            elif not torch.equal(self.seen, groups):
                raise ConfigError(
                    f"{self.modules} are computed as one product, but their act-order differs (g_idx), which is not "
                    "supported; quantize them with the same order, or without desc_act"
                )
        return groups


@dataclass(frozen=True)
class Gptq(Int4):
    """order: `g_idx` says which group an input is of. zero_less: how much less is stored than a zero point."""

    zero_less: int = 1
    name: str = "gptq"

    def declare(self, matrix: Matrix) -> dict[str, Declared]:
        inputs, group = matrix.inputs, self.group_size(matrix.inputs)
        groups = whole(blocks(inputs, group).size) if self.order else blocks(inputs, group)
        weights, zeros, scales = [], [], []
        for run in matrix.outputs:
            weights.append(self._weight(run, inputs))
            zeros.append(self._zeros(run, groups))
            shape, window = (groups.size, run.share.size), (groups.window, run.share.window)
            scales.append(Part(f"{run.module}.scales", shape, window))
        group_of = (
            order_of(matrix, "g_idx", groups.size) if self.order else Computed(partial(block_of, [inputs], group))
        )
        return joined(weights, zeros, scales) | {"group_of": group_of}

    def _weight(self, run: Run, inputs: Share) -> Part:
        words, packed = blocks(inputs, PACKED), self.packed(run)
        skipped = inputs.start - words.start * PACKED

        def convert(stored: Tensor) -> Tensor:
            return packed_as_awq(unpacked_in_order(stored.T).T[skipped : skipped + inputs.count])

        shape, window = (words.size, run.share.size), (words.window, run.share.window)
        conversion = Conversion(convert, (inputs.count, packed.count), torch.int32)
        return Part(f"{run.module}.qweight", shape, window, conversion)

    def _zeros(self, run: Run, groups: Share) -> Part:
        packed = self.packed(run)

        def convert(stored: Tensor) -> Tensor:
            return packed_as_awq((unpacked_in_order(stored) + self.zero_less) & 15)

        conversion = Conversion(convert, (groups.count, packed.count), torch.int32)
        shape, window = (groups.size, packed.size), (groups.window, packed.window)
        return Part(f"{run.module}.qzeros", shape, window, conversion)


def order_of(matrix: Matrix, suffix: str, groups: int) -> Weight:
    """The group of each input, as the checkpoint says: the same for all that is computed as one product."""
    check, inputs = Alike(", ".join(run.module for run in matrix.outputs), groups), matrix.inputs
    kept = Conversion(check, (inputs.count,), torch.int32)
    only_compared = Conversion(lambda groups: check(groups)[:0], (0,), torch.int32)
    parts = tuple(
        Part(f"{run.module}.{suffix}", (inputs.size,), (inputs.window,), only_compared if index else kept)
        for index, run in enumerate(matrix.outputs)
    )
    return Weight(parts, dtype=torch.int64, dummy=0)
