"""When kernels are compiled: many at once before anything runs, and never again once requests are served."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import triton
from triton.runtime import driver
from triton.runtime._async_compile import active_mode
from triton.runtime.jit import JITFunction

# Passes of the compiler run beside one another; what Python does of a kernel takes about a tenth of its time.
_MOST_THREADS = 16


@contextmanager
def compiled_beside(call: Callable[[Callable[[], int]], object], say: Callable[..., None]) -> Iterator[None]:
    """Compiles every kernel that `call` would launch, in threads, while what is inside the context runs. Ends with the
    last of them.

    Nothing is launched: `call` is made before, only to find the kernels, and is given a function that says how many it
    has found. Raises what the compiler raises. Kernels are specialized by their arguments' types, alignment and
    numbers; memory is not touched, so tensors may be on the device `meta`. What other threads launch meanwhile runs.
    say: logs a line.
    """
    began = time.perf_counter()
    threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    with _Compilers(threads) as compilers, triton.AsyncCompileMode(compilers) as compiler:
        with _nothing_launched():
            call(lambda: len(compiler.future_kernels))
        compilers.begin()
        count, found = len(compiler.future_kernels), time.perf_counter() - began
        say("kernels: %d are compiled, or read from the cache, by %d threads", count, threads)
        yield
    say("kernels: ready after %.1f s, of which finding them took %.1f", time.perf_counter() - began, found)


class _Compilers(Executor):
    """Threads that compile when they are told to begin: before, they would take turns with what finds the kernels, and
    Python is passed from one to another slowly. They also load each kernel into the device, and build what launches it:
    C, which would be compiled at its first launch, one by one."""

    def __init__(self, threads: int):
        here = driver.active.get_current_device()  # a new thread has the first one
        self._threads = ThreadPoolExecutor(threads, "compiler", driver.active.set_current_device, (here,))
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        kernel: Future[Any] = Future()
        self._waiting.append((kernel, partial(fn, *args, **kwargs)))
        return kernel

    def begin(self) -> None:
        for kernel, compile_it in self._waiting:
            self._threads.submit(_compile, kernel, compile_it)
        self._waiting.clear()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for kernel, _ in self._waiting:
            kernel.cancel()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


def _compile(future: Future[Any], compile_it: Callable[[], Any]) -> None:
    try:
        kernel = compile_it()
        kernel._init_handles()
        future.set_result(kernel)
    except BaseException as error:
        future.set_exception(error)


@contextmanager
def _nothing_launched() -> Iterator[None]:
    """What this thread launches is only looked at; what it has launched before, not even that."""
    launch, look_at = JITFunction.run, JITFunction._do_compile

    def only_compile(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return launch(self, *arguments, grid=grid, warmup=warmup or active_mode.get() is not None, **options)

    def once(self: Any, key: Any, signature: Any, device: Any, *rest: Any, **options: Any) -> Any:
        kernel = look_at(self, key, signature, device, *rest, **options)
        if active_mode.get() is not None and kernel is not None:
            self.device_caches[device][0][key] = kernel
        return kernel

    JITFunction.run, JITFunction._do_compile = only_compile, once
    try:
        yield
    finally:
        JITFunction.run, JITFunction._do_compile = launch, look_at


def tell_of_each(listener: Callable[[str], None] | None) -> None:
    """From now on `listener` is called with the name of each kernel that is compiled, or read from the disk's cache."""

    def compiled(*, fn: Any, **_: Any) -> None:
        assert listener is not None, "the hook is taken out with its listener"
        listener(fn.name)

    triton.knobs.runtime.jit_post_compile_hook = compiled if listener is not None else None
