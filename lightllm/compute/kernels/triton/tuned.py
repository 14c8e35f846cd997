"""Launch parameters that were measured on this kind of device, instead of those that kernels have compiled in.

A JSON file for each kind of device, named after it: {"parameters": {"OP by KERNEL": {sizes: {name: value}}}}, where
null says that the library is faster than the kernel. `lightllm tune` writes it to the user's cache; what lies in
kernels/tuned/ is part of the package. The user's file counts where there is one. Files are read once, when a kernel
first asks.
"""

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from lightllm.base import env
from lightllm.base.errors import ConfigError

PACKAGED = Path(__file__).parents[1] / "tuned"
T = TypeVar("T")


def shape(device: torch.device, op: str, kind: type[T], sizes: Sequence[int], default: T | None) -> T | None:
    """The parameters that were measured for an op at these sizes, else `default`. None: the library is to be used.

    `kind` is a dataclass of launch parameters. A few tenths of a microsecond. Raises ConfigError for a file that
    cannot be read, or was made for another version of the kernel.
    """
    if device.type != "cuda":
        device = meant_by(device)
        if device.type != "cuda":
            return default
    found = _found(device, op, kind, tuple(sizes))
    return default if found is _NOTHING else found


def meant_by(device: torch.device) -> torch.device:
    """Tensors without memory stand for such on the card that this thread uses, if it uses one."""
    if device.type == "meta" and torch.cuda.is_initialized():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def path_for(device_name: str, folder: Path) -> Path:
    """Where a device's file is, or would be, in a folder."""
    return folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', device_name)}.json"


def file_for(device: torch.device) -> Path | None:
    """The file that counts for this device, if there is one."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    candidates = [path_for(name, folder) for folder in (Path(env.TUNED_FOLDER), PACKAGED)]
    return next((path for path in candidates if path.is_file()), None)


def describe(device: torch.device) -> str:
    """Which parameters count on this device, in one line."""
    if (path := file_for(device)) is None:
        return "compiled in; `lightllm tune` measures others"
    sizes = sum(len(entries) for entries in read(path).values())
    return f"{sizes} measured, from {path}; compiled in for other sizes"


def op_key(op: str, kind: type[Any]) -> str:
    """How an op is written in the file: with the module of the kernel whose parameters are meant."""
    return f"{op} by {kind.__module__.rpartition('.')[2]}"


def key(sizes: Sequence[int]) -> str:
    """How sizes are written in the file."""
    return " x ".join(map(str, sizes))


_NOTHING = object()


@functools.cache
def _found(device: torch.device, op: str, kind: type[Any], sizes: tuple[int, ...]) -> Any:
    path = file_for(device)
    values = {} if path is None else read(path).get(op_key(op, kind), {})
    if key(sizes) not in values:
        return _NOTHING
    entry = values[key(sizes)]
    try:
        return None if entry is None else kind(**entry)
    except TypeError as error:
        raise ConfigError(
            f"{path}: {op} {key(sizes)}: {error}; run `lightllm tune` again, or remove the file"
        ) from None


@functools.cache
def read(path: Path) -> dict[str, dict[str, dict[str, int] | None]]:
    """op -> sizes -> parameters. Raises ConfigError."""
    try:
        parameters = json.loads(path.read_text(encoding="utf-8"))["parameters"]
        assert all(isinstance(entries, dict) for entries in parameters.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise ConfigError(f"{path} holds no launch parameters; run `lightllm tune` again, or remove it") from None
    return parameters
