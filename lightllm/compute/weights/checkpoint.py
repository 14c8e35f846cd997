"""Reading a Hugging Face directory: tensors by name from safetensors files, of each only the window asked for."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lightllm.base.errors import ConfigError
from lightllm.compute.weights.weight import Part, Weight

INDEX_FILE = "model.safetensors.index.json"
HARMLESS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attn\.masked_bias)$")  # buffers that older files carry along
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
}
FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
NAMED = 3  # how many tensors an error names of each kind


class Checkpoint(Protocol):
    """Where weights come from."""

    def check(self, wanted: Iterable[Weight], ignored: re.Pattern[str] | None) -> None:
        """Raises one ConfigError naming tensors that are missing, misshapen, or unused and not `ignored`."""
        ...

    def read(self, part: Part, weight: Weight) -> Tensor:
        """The part's window, in whatever dtype it is stored."""
        ...


class Safetensors:
    """A directory with model.safetensors, or with several files and their index. Files are mapped, not read.

    Raises ConfigError if there are no safetensors, or a file is missing or broken.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._where = {}
        for path in _files(directory):
            try:
                file = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ConfigError(f"cannot read {path}: {error}; download the checkpoint again") from error
            self._where |= dict.fromkeys(file.keys(), file)

    def check(self, wanted: Iterable[Weight], ignored: re.Pattern[str] | None) -> None:
        missing, wrong, used = [], [], set()
        for weight in wanted:
            for part in weight.parts:
                used.add(part.name)
                if part.name not in self._where:
                    missing.append(part.name)
                elif reason := self._mismatch(part, weight):
                    wrong.append(reason)
        unused = [
            name
            for name in self._where
            if name not in used and not HARMLESS.search(name) and not (ignored and ignored.search(name))
        ]
        problems = [_list("missing", missing), _list("unexpected", wrong), _list("unused", unused)]
        if any(problems):
            raise ConfigError(f"{self.directory} does not fit its config.json: " + "; ".join(filter(None, problems)))

    def read(self, part: Part, weight: Weight) -> Tensor:
        return self._where[part.name].get_slice(part.name)[part.window]

    def _mismatch(self, part: Part, weight: Weight) -> str | None:
        stored = self._where[part.name].get_slice(part.name)
        shape, dtype = tuple(stored.get_shape()), DTYPES.get(stored.get_dtype())
        if shape != part.shape:
            return f"{part.name} has shape {list(shape)} instead of {list(part.shape)}"
        expected = FLOATS if weight.dtype is None or weight.dtype in FLOATS else {weight.dtype}
        if dtype not in expected:
            names = " or ".join(sorted(str(x).removeprefix("torch.") for x in expected))
            return f"{part.name} is stored as {stored.get_dtype()} instead of {names}"
        return None


class Index(msgspec.Struct):
    """Which file holds each tensor."""

    weight_map: dict[str, str]


def _files(directory: Path) -> Sequence[Path]:
    index = directory / INDEX_FILE
    if index.exists():
        try:
            names = msgspec.json.decode(index.read_bytes(), type=Index).weight_map.values()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{index} is not a safetensors index: {error}") from error
        files = [directory / name for name in sorted(set(names))]
        if lacking := [path.name for path in files if not path.exists()]:
            raise ConfigError(f"{directory} lacks {', '.join(lacking)}, named in {INDEX_FILE}; download it again")
        return files
    if files := sorted(directory.glob("*.safetensors")):
        return files
    found = "only PyTorch .bin files, which are not read; convert them" if any(directory.glob("*.bin")) else "none"
    raise ConfigError(f"{directory} must hold weights as *.safetensors; found {found}")


def _list(kind: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f", and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {kind}: {', '.join(names[:NAMED])}{more}"
