"""When kernels are compiled: many at once before anything runs, and never again once requests are served."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import triton
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# Passes of the compiler run beside one another; what Python does of a kernel takes about a tenth of its time.
_MOST_THREADS = 16


@contextmanager
def compiled_beside(call: Callable[[Callable[[], int]], object], say: Callable[..., None]) -> Iterator[None]:
    """Every kernel that `call` launches is compiled, in threads; none runs. Ends when all are compiled.

    `call` is given what says how many that are so far.

    `call` has been made when the context begins: what is inside it runs beside the compiler. Raises what the compiler
    raises. Kernels are specialized by their arguments' types, alignment and numbers; memory is not touched, so tensors
    may be on the device `meta`. say: logs a line.
    """
    began = time.perf_counter()
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with _Compilers(threads, "compiler") as executor:
        with triton.AsyncCompileMode(executor) as compiler:
            with _nothing_launched():
                call(lambda: len(compiler.future_kernels))
            count, found = len(compiler.future_kernels), time.perf_counter() - began
            say("kernels: %d are compiled, or read from the cache, by %d threads", count, threads)
            yield
        say("kernels: ready after %.1f s, of which finding them took %.1f", time.perf_counter() - began, found)


class _Compilers(ThreadPoolExecutor):
    """Besides each kernel they build what launches it: C, which would be compiled at its first launch, one by one."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def compile_both() -> Any:
            kernel = fn(*args, **kwargs)
            driver.active.launcher_cls(kernel.src, kernel.metadata)
            return kernel

        return super().submit(compile_both)


@contextmanager
def _nothing_launched() -> Iterator[None]:
    launch = JITFunction.run

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return launch(self, *arguments, grid=grid, warmup=True, **options)

    JITFunction.run = only_compile
    try:
        yield
    finally:
        JITFunction.run = launch


def tell_of_each(listener: Callable[[str], None] | None) -> None:
    """From now on `listener` is called with the name of each kernel that is compiled, or read from the disk's cache."""

    def compiled(*, fn: Any, **_: Any) -> None:
        assert listener is not None, "the hook is taken out with its listener"
        listener(fn.name)

    triton.knobs.runtime.jit_post_compile_hook = compiled if listener is not None else None
