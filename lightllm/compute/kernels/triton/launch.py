# ruff: noqa: N803, N806 (shape suffixes and compile-time constants are upper case)
"""What the Triton kernels share: where they can run, how large the device is, and dependent launch.

Dependent launch (programmatic dependent launch, from compute capability 9.0 on): a kernel's programs may start while
the kernels before it still run, so that launching and set-up cost no time. Until it has waited, a program must write
nothing and may read only what no dependently launched kernel writes: weights, and what says which tokens a step has.
That is prepared by kernels launched in the ordinary way, which end before any later kernel's programs start.
Asking for weights to be brought into the second cache ahead made whole layers slower, by 1 to 11 % for 8 to 32 MiB of
each matrix, where asking for them in shared memory made them faster: docs/performance-log.md.
"""

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from lightllm.compute.kernels.triton.tuned import meant_by
from lightllm.compute.ops.op import Facts

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST = (8, 0)  # compute capability with bfloat16 matrix units and asynchronous copies
HOPPER = (9, 0)
DEPENDENT = (9, 0)  # from which on kernels are launched dependently


@dataclass(frozen=True)
class Card:
    """What the choice of launch parameters depends on."""

    capability: tuple[int, int]
    multiprocessors: int


INTERPRETED = Card((0, 0), 2)  # a CPU, where Triton interprets


@functools.cache
def card(device: torch.device) -> Card:
    device = meant_by(device)
    if device.type != "cuda":
        return INTERPRETED
    facts = torch.cuda.get_device_properties(device)
    return Card((facts.major, facts.minor), facts.multi_processor_count)


def why_not(facts: Facts) -> str | None:
    """The reason no kernel of this package can run, if there is one."""
    if facts.device.type != "cuda":
        return f"needs a CUDA device, not {facts.device.type}"
    if facts.dtype not in DTYPES:
        return f"computes in float32, float16 and bfloat16, not {facts.dtype}"
    if card(facts.device).capability < OLDEST:
        return f"needs compute capability {OLDEST[0]}.{OLDEST[1]}"
    return None


def is_hopper(device: torch.device) -> bool:
    """Whether it has the matrix unit and the copy engine of a Hopper card, which later ones lack."""
    return card(device).capability[0] == HOPPER[0]


def why_not_hopper(facts: Facts) -> str | None:
    """The reason no kernel can run that uses the matrix unit and the copy engine of a Hopper card, if there is one."""
    if (reason := why_not(facts)) is not None:
        return reason
    return None if is_hopper(facts.device) else "needs the matrix unit of compute capability 9"


def depends(device: torch.device) -> bool:
    """Whether kernels are launched dependently: the value of DEPENDENT and of the option launch_pdl."""
    return card(device).capability >= DEPENDENT


@triton.jit
def begin(DEPENDENT: tl.constexpr):
    """Let the next kernel's programs start where there is room, and return when all kernels before this one ended."""
    let_next_start(DEPENDENT)
    wait(DEPENDENT)


@triton.jit
def let_next_start(DEPENDENT: tl.constexpr):
    """The first half of `begin`."""
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def wait(DEPENDENT: tl.constexpr):
    """The second half of `begin`."""
    if DEPENDENT:
        gdc_wait()


def cdiv(count: int, size: int) -> int:
    """How many times `size` it takes to reach `count`. Triton's own function, made for kernels, takes the host 4 us."""
    return -(-count // size)


def next_power_of_2(count: int) -> int:
    """The least one that is not less than `count`, which is at least 1. For the host, as `cdiv` is."""
    return 1 << (count - 1).bit_length()


NARROWEST = 16  # rows and columns of the smallest product of the matrix unit


def padded(count: int) -> int:
    """Rows or columns of a tile that holds `count`: a power of two."""
    return max(next_power_of_2(count), NARROWEST)


ARRIVALS = 1 << 16
MEETING = tl.constexpr(16)  # the most programs that wait for one another


@functools.cache
def arrivals(device: torch.device) -> Tensor:
    """Counters [ARRIVALS] int32 by which programs find out which of them is last. All zero between kernels.

    One set per device: kernels that use it must follow one another on one stream.
    """
    return _counters(device)


@functools.cache
def meetings(device: torch.device) -> Tensor:
    """Counters [ARRIVALS] int32 by which programs wait for one another. Each kernel leaves them a multiple of MEETING
    higher, or as they were; they may overflow.

    One set per device: kernels that use it must follow one another on one stream.
    """
    return _counters(device)


def _counters(device: torch.device) -> Tensor:
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    assert not capturing, "run a step before capturing one: these zeros must not become part of a graph"
    return torch.zeros(ARRIVALS, dtype=torch.int32, device=device)


def rows_of(x: Tensor) -> Tensor:
    """x [..., width] as [rows, width] with neighbouring numbers next to each other; a copy only if it must be."""
    x = x.reshape(-1, x.shape[-1])
    return x if x.stride(-1) == 1 else x.contiguous()
