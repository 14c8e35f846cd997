"""Reading a Hugging Face directory: tensors by name from safetensors files, of each only the window asked for."""

import math
import mmap
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from lightllm.base import log
from lightllm.base.errors import ConfigError
from lightllm.compute.weights.weight import Part, Weight

_log = log.get(__name__)
INDEX_FILE = "model.safetensors.index.json"
# Buffers that older files carry along; what quantizers state beside the weight and its config says already.
HARMLESS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attn\.masked_bias|weight_shape)$")
# Scales of activations, keys and values that were measured beforehand: here all of these get their own as they come.
MEASURED = re.compile(r"\.(input_scale|activation_scale|[qkv]_scale|[qkv]_proj\.output_scale)$")
GROUPS_OF_INPUTS = re.compile(r"\.(weight_)?g_idx$")
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
}
FLOATS = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
NAMED = 3  # how many tensors an error names of each kind


class Checkpoint(Protocol):
    """Where weights come from."""

    def check(self, wanted: Iterable[Weight], ignored: re.Pattern[str] | None) -> None:
        """Raises one ConfigError naming tensors that are missing, misshapen, or unused and not `ignored`."""
        ...

    def read(self, part: Part, weight: Weight) -> Tensor:
        """The part's window, in whatever dtype it is stored; not to be written to. Several threads may read."""
        ...


class Header(msgspec.Struct):
    """What a file says of one tensor. data_offsets: where it begins and ends, after the headers."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Stored:
    """A tensor in a mapped file, from byte `start` of it on."""

    file: mmap.mmap
    start: int
    dtype: str
    shape: tuple[int, ...]


class Safetensors:
    """A directory with model.safetensors, or with several files and their index. Files are mapped: what nobody reads is
    not fetched, and nothing is copied here. Source of the format: github.com/huggingface/safetensors.

    Raises ConfigError if there are no safetensors, or a file is missing or broken.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._where: dict[str, Stored] = {}
        for path in _files(directory):
            try:
                self._where |= _mapped(path)
            except (ValueError, OSError) as error:
                raise ConfigError(f"cannot read {path}: {error}; download the checkpoint again") from error

    def put_under(self, prefix: str) -> None:
        """Lets the tensors be known with this before their names, unless they are already."""
        if not any(name.startswith(prefix) for name in self._where):
            self._where = {prefix + name: stored for name, stored in self._where.items()}

    def check(self, wanted: Iterable[Weight], ignored: re.Pattern[str] | None) -> None:
        missing, wrong, used = [], [], set()
        for weight in wanted:
            for part in weight.parts:
                name = self._name(part)
                used.add(name)
                if name not in self._where:
                    missing.append(name)
                elif reason := self._mismatch(part, weight):
                    wrong.append(reason)
        others = [name for name in self._where if name not in used and not (ignored and ignored.search(name))]
        ordered = [name for name in others if GROUPS_OF_INPUTS.search(name) and not self._is_in_runs(name)]
        problems = [
            _list("missing", missing),
            _list("unexpected", wrong),
            _list("unused", [name for name in others if self._matters(name)]),
            _list("with inputs in an order (act-order) that it does not state", ordered),
        ]
        if any(problems):
            found = "; ".join(filter(None, problems))
            raise ConfigError(f"{self.directory} does not fit its config.json: {found}; download both again")
        if measured := [name for name in others if MEASURED.search(name)]:
            _log.info("%s; each token has a scale of its own", _list("scales are not used", measured))

    def read(self, part: Part, weight: Weight) -> Tensor:
        return self._tensor(self._name(part))[part.window]

    def _tensor(self, name: str) -> Tensor:
        stored = self._where[name]
        if not (count := math.prod(stored.shape)):
            return torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
        flat = torch.frombuffer(stored.file, dtype=DTYPES[stored.dtype], count=count, offset=stored.start)
        return flat.view(stored.shape)

    def _name(self, part: Part) -> str:
        """What this checkpoint calls the tensor."""
        other = part.other_name
        return other if other is not None and part.name not in self._where and other in self._where else part.name

    def _matters(self, name: str) -> bool:
        """Whether a tensor that nobody reads might change what the model computes."""
        if name.endswith(".bias") and self._where[name].dtype in DTYPES:
            return bool(self._tensor(name).any())  # some quantizers write zeros beside each matrix without a bias
        return not any(known.search(name) for known in (HARMLESS, MEASURED, GROUPS_OF_INPUTS))

    def _is_in_runs(self, name: str) -> bool:
        """Whether a tensor that says which group each input is of says nothing but that groups are runs of inputs."""
        groups = self._tensor(name)
        return bool((groups[1:] >= groups[:-1]).all())

    def _mismatch(self, part: Part, weight: Weight) -> str | None:
        stored = self._where[self._name(part)]
        dtype = DTYPES.get(stored.dtype)
        # One number may be stored as a scalar or as a list of it.
        if stored.shape != part.shape and not math.prod(stored.shape) == math.prod(part.shape) == 1:
            return f"{self._name(part)} has shape {list(stored.shape)} instead of {list(part.shape)}"
        wanted = weight.dtype if part.conversion is None else part.conversion.stored
        expected = FLOATS if wanted is None or wanted in FLOATS else {wanted}
        if dtype not in expected:
            names = " or ".join(sorted(str(x).removeprefix("torch.") for x in expected))
            return f"{self._name(part)} is stored as {stored.dtype} instead of {names}"
        return None


def _mapped(path: Path) -> dict[str, Stored]:
    """The tensors of a file, by name. Raises ValueError if it is no safetensors file, or cut short."""
    with path.open("rb") as file:
        # Private, so that torch may take it for writable memory; nothing is written.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    data = 8 + int.from_bytes(mapped[:8], "little")
    if not 8 < data <= len(mapped):
        raise ValueError(f"its header has {data - 8} bytes, the file {len(mapped)}")
    try:
        described = msgspec.json.decode(mapped[8:data], type=dict[str, Any])
        described.pop("__metadata__", None)
        headers = msgspec.convert(described, dict[str, Header])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"its header is not safetensors: {error}") from error
    for name, header in headers.items():
        start, stop = header.data_offsets
        size = math.prod(header.shape) * DTYPES[header.dtype].itemsize if header.dtype in DTYPES else stop - start
        if not 0 <= start <= stop <= len(mapped) - data or stop - start != size:
            raise ValueError(f"{name} lies at bytes {start} to {stop} of {len(mapped) - data}, and takes {size}")
    return {
        name: Stored(mapped, data + header.data_offsets[0], header.dtype, header.shape)
        for name, header in headers.items()
    }


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
