"""How the tensor copy engine is told of tensors, and which ones it can copy."""

import functools

import torch
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

OF_16_BITS = (torch.bfloat16, torch.float16)
OF_8_BITS = (torch.float8_e4m3fn, torch.int8)
# Of lines of numbers of 32 bits, without a swizzle, so that any one can be taken.
UNSWIZZLED = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2)
_LINE_BYTES = 16  # at multiples of which the engine wants lines to begin
_ELEMENTS = {
    torch.bfloat16: gl.bfloat16,
    torch.float16: gl.float16,
    torch.float8_e4m3fn: gl.float8e4nv,
    torch.int8: gl.int8,
    torch.int32: gl.int32,
}


def tiles_of(tensor: Tensor, *tile: int) -> TensorDescriptor:
    """A tensor cut into tiles of this size, each of which lies in shared memory as the matrix unit reads it."""
    return TensorDescriptor.from_tensor(tensor, list(tile), _layout(tensor.dtype, tile))


@functools.cache
def _layout(dtype: torch.dtype, tile: tuple[int, ...]) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for(list(tile), _ELEMENTS[dtype])


def lines_of(tensor: Tensor, *tile: int) -> TensorDescriptor:
    """A matrix of numbers of 32 bits, cut into tiles that are UNSWIZZLED."""
    return TensorDescriptor.from_tensor(tensor, list(tile), UNSWIZZLED)


def why_not_copied(*matrices: Tensor) -> str | None:
    """The reason the engine cannot copy one of these, if there is one."""
    for matrix in matrices:
        offsets = matrix.data_ptr(), matrix.stride(0) * matrix.element_size()
        if matrix.stride(1) != 1 or any(offset % _LINE_BYTES for offset in offsets):
            return f"the copy engine needs rows of neighbouring numbers that begin at multiples of {_LINE_BYTES} bytes"
    return None
