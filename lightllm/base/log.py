"""One log format for all processes: time, level, process, message. To standard error."""

import logging
import sys


def get(name: str) -> logging.Logger:
    """The logger of a module; `name` is its __name__."""
    return logging.getLogger(name)


def setup(process: str, level: str) -> None:
    """Called once at the start of each process, and by the offline API only if it starts one."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {process}: %(message)s", "%H:%M:%S"))
    root = logging.getLogger("lightllm")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
