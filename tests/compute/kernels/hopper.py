"""Compiles Triton kernels for an H200 on a machine that has none, and reads registers and spills off the result.

Import before anything launches a kernel: from then on launching compiles for sm_90a and runs nothing. The kernels'
own wrappers are called with tensors on the CPU, so what is compiled is what would run, with the same parameters.
Not to be mixed with Triton's interpreter in one process. Needs Triton 3.6 and patches what is private there.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from lightllm.compute.kernels.triton import launch

H200 = launch.Card((9, 0), 132)
TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class FakeUtilities:
    """Says that a kernel was loaded."""

    def get_device_properties(self, device):
        return {"max_shared_mem": 232_448}

    def load_binary(self, name, kernel, shared, device):
        return "module", "function", 0, 0, 1024


class FakeHopper(DriverBase):
    """Just enough of a driver for a kernel to be specialized and compiled."""

    def __init__(self):
        self.utils, self.launcher_cls = FakeUtilities(), lambda source, metadata: None

    @classmethod
    def is_active(cls):
        return True

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def set_current_device(self, device):
        pass

    def get_current_stream(self, device=None):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty):
        return ty

    def get_device_interface(self):
        raise NotImplementedError

    def get_benchmarker(self):
        return lambda function, quantiles=None, **options: [1.0, 1.0, 1.0]

    def get_empty_cache_for_benchmark(self):
        return None

    def clear_cache(self, cache):
        pass


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one kernel. Counts are of instructions in the machine code, not of executions."""

    kernel: str
    warps: int
    registers: int
    stack_bytes: int
    spill_loads: int
    spill_stores: int
    shared_bytes: int
    wgmma: int
    mma: int
    bulk_copies: int
    async_copies: int


_compiled: list[Any] = []


def _compile_only(run: Callable[..., Any]) -> Callable[..., Any]:
    def launch_nothing(self, *arguments, grid, warmup, **options):
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        _compiled.append(kernel)
        return kernel

    return launch_nothing


driver.set_active(FakeHopper())
JITFunction.run = _compile_only(JITFunction.run)
launch.card = lambda device: H200


def compiled_by(call: Callable[[], Any]) -> list[Compiled]:
    """What each kernel that `call` launches compiles to."""
    _compiled.clear()
    call()
    return [read(kernel) for kernel in _compiled]


def read(kernel: Any) -> Compiled:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOL, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        code = subprocess.run([TOOL, "-sass", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())

    def count(instruction: str) -> int:
        return len(re.findall(rf"\b{instruction}\b", code))

    return Compiled(
        kernel=kernel.name,
        warps=kernel.metadata.num_warps,
        registers=registers,
        stack_bytes=stack,
        spill_loads=count("LDL"),
        spill_stores=count("STL"),
        shared_bytes=kernel.metadata.shared,
        wgmma=count("HGMMA") + count("QGMMA") + count("IGMMA"),
        mma=count("HMMA"),
        bulk_copies=count("UTMALDG"),
        async_copies=count("LDGSTS"),
    )


def table(rows: Sequence[tuple[str, Compiled]]) -> str:
    """As Markdown, with the name of what was launched."""
    names = ["launch", *(field.name.replace("_", " ") for field in fields(Compiled))]
    lines = [names, ["---"] * len(names), *([name, *astuple(row)] for name, row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
