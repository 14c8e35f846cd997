"""Memory that processes share through an inherited file descriptor.

The segment has no name in the file system: when the last process that holds it ends, it is gone, however they ended.
Pages that nobody touched take no memory, so segments are sized for the worst case.
"""

import mmap
import os


class SharedMemory:
    """`view` is the memory as a writable buffer; `fd` is handed to the other processes."""

    def __init__(self, fd: int):
        self.fd = fd
        self.view = memoryview(mmap.mmap(fd, 0))

    @classmethod
    def create(cls, name: str, size: int) -> "SharedMemory":
        """A zeroed segment of `size` bytes; `name` only shows in /proc."""
        fd = os.memfd_create(f"lightllm-{name}")
        os.ftruncate(fd, size)
        return cls(fd)

    def close(self) -> None:
        """Gives up the descriptor. The memory lives as long as somebody has a view of it or a descriptor."""
        os.close(self.fd)
        self.view = memoryview(b"")
