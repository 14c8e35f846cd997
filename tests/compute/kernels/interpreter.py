"""Makes Triton's interpreter compute what a GPU would. Import with TRITON_INTERPRET=1 set, before any kernel.

Triton 3.6's own interpreter does bfloat16 arithmetic on the raw bits, cuts float32 off instead of rounding it, and
knows neither libdevice nor dependent launch; loops over run-time bounds fail with numpy 2.4. Here bfloat16 operands
are widened to float32, and results are rounded once. Patches what is private in triton.runtime.interpreter: for 3.6.
Programs run one after another, so a missing barrier is not found.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.language.extra import cuda, libdevice
from triton.runtime import interpreter

Handle = interpreter.TensorHandle
Builder = interpreter.InterpreterBuilder
FLOATS = {
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float32: torch.float32,
    tl.float64: torch.float64,
}
WORDS = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
ON_BITS = {np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.left_shift, np.right_shift}
NARROW = {tl.bfloat16, tl.float8e4nv}  # which numpy does not have
LIBDEVICE = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "log1p": np.log1p,
    "rint": np.rint,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "tanh": np.tanh,
}


def _is_narrow(*handles: Any) -> bool:
    return any(handle.dtype.scalar in NARROW for handle in handles)


def _wide(handle: Any) -> np.ndarray:
    """A handle's numbers, bfloat16 as float32."""
    if _is_narrow(handle):
        return _converted(handle.data, handle.dtype.scalar, tl.float32, None).view(np.float32)
    return handle.data


def _narrow(numbers: np.ndarray, dtype: Any) -> np.ndarray:
    """Numbers as a handle of this type holds them."""
    if dtype.scalar == tl.bfloat16 and numbers.dtype != np.bool_:
        return _converted(np.asarray(numbers, np.float32), tl.float32, tl.bfloat16, None)
    return numbers


def _convert_floats(convert: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def converted(data, source, target, rounding):
        source, target = source.scalar, target.scalar
        nearest = rounding is None or rounding == interpreter._ir.ROUNDING_MODE.RTNE
        if source not in FLOATS or target not in FLOATS or not nearest:
            return convert(data, source, target, rounding)
        raw = np.ascontiguousarray(data).view(WORDS[source.primitive_bitwidth]).copy().reshape(-1).view(np.uint8)
        rounded = torch.from_numpy(raw).view(FLOATS[source]).to(FLOATS[target])
        return rounded.view(torch.uint8).numpy().view(WORDS[target.primitive_bitwidth]).reshape(data.shape)

    return converted


def _binary(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self, left, right, operation):
        if operation in ON_BITS or not _is_narrow(left, right):
            return original(self, left, right, operation)
        return Handle(_narrow(operation(_wide(left), _wide(right)), left.dtype), left.dtype.scalar)

    return compute


def _unary(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self, x, operation):
        if not _is_narrow(x):
            return original(self, x, operation)
        return Handle(_narrow(operation(_wide(x)), x.dtype), x.dtype.scalar)

    return compute


def _ternary(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self, x, y, z, operation):
        if operation is np.where or not _is_narrow(x, y, z):
            return original(self, x, y, z, operation)
        return Handle(_narrow(operation(_wide(x), _wide(y), _wide(z)), z.dtype), z.dtype.scalar)

    return compute


def _fma(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self, x, y, z):
        if not _is_narrow(x, y, z):
            return original(self, x, y, z)
        return Handle(_narrow(_wide(x) * _wide(y) + _wide(z), z.dtype), z.dtype.scalar)

    return compute


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self, x, target):
        source, target = x.dtype.scalar, target.scalar
        if tl.bfloat16 not in (source, target):
            return original(self, x, target)
        if target == tl.bfloat16:
            return Handle(x.data if source == target else _narrow(_wide(x).astype(np.float32), target), target)
        return Handle(_wide(x).astype(interpreter._get_np_dtype(target)), target)

    return compute


def _dot(self, a, b, c, *precision):
    wide = np.int32 if c.dtype.scalar.is_int() else np.float32
    product = np.matmul(_wide(a).astype(wide), _wide(b).astype(wide)) + _wide(c)
    return Handle(_narrow(product, c.dtype) if _is_narrow(c) else product.astype(c.data.dtype), c.dtype.scalar)


def _along_axis(original: Callable[..., Any]) -> Callable[..., Any]:
    """Reductions and scans."""

    def compute(self, inputs):
        if not any(x.dtype == tl.bfloat16 for x in inputs):
            return original(self, inputs)
        widened = tuple(self.to_tensor(_wide(x.handle), tl.float32) if x.dtype == tl.bfloat16 else x for x in inputs)
        results = original(self, widened)
        several = isinstance(results, list | tuple)
        narrowed = [
            _as_bfloat16(result) if result.dtype == tl.float32 and x.dtype == tl.bfloat16 else result
            for result, x in zip(results if several else [results], inputs, strict=True)
        ]
        return narrowed if several else narrowed[0]

    return compute


def _as_bfloat16(result: Any) -> Any:
    kind = tl.block_type(tl.bfloat16, list(result.shape)) if result.type.is_block() else tl.bfloat16
    return tl.core.tensor(Handle(_narrow(result.handle.data, tl.bfloat16), tl.bfloat16), kind)


def _index_by_one_number(patch: Callable[..., Any]) -> Callable[..., Any]:
    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    return patched


def _elementwise(function: Callable[[np.ndarray], np.ndarray]) -> Callable[..., Any]:
    def compute(x, **options):
        numbers = function(_wide(x.handle)).astype(_wide(x.handle).dtype)
        return tl.core.tensor(Handle(_narrow(numbers, x.dtype), x.dtype.scalar), x.type)

    return compute


_converted = _convert_floats(interpreter._convert_float)
interpreter._convert_float = _converted
interpreter._patch_lang_tensor = _index_by_one_number(interpreter._patch_lang_tensor)
Builder.binary_op = _binary(Builder.binary_op)
Builder.unary_op = _unary(Builder.unary_op)
Builder.ternary_op = _ternary(Builder.ternary_op)
Builder.create_fma = _fma(Builder.create_fma)
Builder.create_rsqrt = lambda self, x: self.unary_op(x, LIBDEVICE["rsqrt"])
Builder.cast_impl = _cast(Builder.cast_impl)
Builder.create_dot = _dot
for _axis_operation in (interpreter.ReduceOps, interpreter.ScanOps):
    _axis_operation.apply_impl = _along_axis(_axis_operation.apply_impl)
for _name, _function in LIBDEVICE.items():
    setattr(libdevice, _name, _elementwise(_function))
    setattr(cuda.libdevice, _name, _elementwise(_function))
# A GPU says nothing of infinities and NaN either.
np.seterr(all="ignore")
