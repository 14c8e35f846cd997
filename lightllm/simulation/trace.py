"""What clients will ask: lengths of prompts and outputs, which prompts begin alike, and perhaps when they come."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lightllm.base.errors import ConfigError

Lengths = NDArray[np.int64]

_BLOCK = 512  # tokens that one hash id of a recorded trace stands for, as Mooncake's traces have them
# Ids of prompt tokens begin here; the ids before are those that the pretended model samples.
FIRST_PROMPT_TOKEN = 2


@dataclass(frozen=True)
class Trace:
    """n requests in the order in which they come.

    Of request i, `prompt[i]` and `output[i]` are tokens, `max_tokens[i]` is what its client allows. `phase[i]` numbers
    the stationary parts of a trace whose requests change. `arrival` is seconds from the first, None if no time is
    given. `blocks[i]` are ids of its prompt's runs of `block_tokens` tokens: prompts that begin with the same ids
    begin with the same tokens. None: no two begin alike.
    """

    name: str
    prompt: Lengths
    output: Lengths
    max_tokens: Lengths
    phase: Lengths
    arrival: NDArray[np.float64] | None = None
    blocks: list[list[int]] | None = None
    block_tokens: int = _BLOCK

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def longest(self) -> int:
        """Most tokens of one request, output as far as its client allows it."""
        return int((self.prompt + self.max_tokens).max())

    def prompt_tokens(self, number: int) -> NDArray[np.int32]:
        """Token ids of a prompt [prompt]."""
        length = int(self.prompt[number])
        if self.blocks is None:
            return np.full(length, FIRST_PROMPT_TOKEN + number, dtype=np.int32)
        ids = np.repeat(np.array(self.blocks[number], dtype=np.int32), self.block_tokens)[:length]
        return np.pad(ids, (0, length - len(ids)), mode="edge") + np.int32(FIRST_PROMPT_TOKEN)

    def part(self, chosen: NDArray[np.bool_]) -> "Trace":
        """The chosen requests, [n] bool, without the times of their arrival."""
        blocks = self.blocks and [ids for ids, is_chosen in zip(self.blocks, chosen, strict=True) if is_chosen]
        return replace(
            self,
            prompt=self.prompt[chosen],
            output=self.output[chosen],
            max_tokens=self.max_tokens[chosen],
            phase=self.phase[chosen],
            arrival=None,
            blocks=blocks,
        )

    def scaled(self, scale: int) -> "Trace":
        """The trace where a token stands for `scale` tokens."""
        if scale == 1:
            return self
        prompt, output, max_tokens = (-(-lengths // scale) for lengths in (self.prompt, self.output, self.max_tokens))
        block_tokens = max(1, self.block_tokens // scale)
        return replace(self, prompt=prompt, output=output, max_tokens=max_tokens, block_tokens=block_tokens)


class _Line(msgspec.Struct, frozen=True):
    """A request of a recorded trace, by the names that Mooncake's traces use."""

    input_length: int
    output_length: int
    timestamp: float | None = None  # ms
    max_tokens: int | None = None
    hash_ids: list[int] | None = None


def read(path: Path) -> Trace:
    """A trace from JSON lines. Raises ConfigError naming the line that is not one."""
    lines = list(_lines(path))
    if not lines:
        raise ConfigError(f"{path} has no requests; give at least one line like {_EXAMPLE}")
    times = [line.timestamp for line in lines]
    is_timed = all(time is not None for time in times)
    if not is_timed and any(time is not None for time in times):
        raise ConfigError(f"{path}: some lines have a timestamp and some have none; give it on all or on none")
    if is_timed:
        lines.sort(key=lambda line: line.timestamp or 0.0)
    output = np.array([line.output_length for line in lines])
    first = lines[0].timestamp or 0.0
    return Trace(
        name=path.stem,
        prompt=np.array([line.input_length for line in lines]),
        output=output,
        max_tokens=np.array([line.max_tokens or int(output.max()) for line in lines]),
        phase=np.zeros(len(lines), dtype=np.int64),
        arrival=np.array([((line.timestamp or 0.0) - first) / 1000 for line in lines]) if is_timed else None,
        blocks=_numbered([line.hash_ids for line in lines]),
    )


_EXAMPLE = '{"input_length": 512, "output_length": 128, "timestamp": 0}'


def _lines(path: Path) -> Iterator[_Line]:
    decode = msgspec.json.Decoder(_Line).decode
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a trace's name or a file of JSON lines") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            request = decode(line)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}, line {number}: {error}; write {_EXAMPLE}") from None
        if request.input_length < 1 or request.output_length < 1:
            raise ConfigError(f"{path}, line {number}: lengths are at least 1")
        yield request


def _numbered(hash_ids: list[list[int] | None]) -> list[list[int]] | None:
    """The hash ids as small numbers; a request without any gets one of its own. None if no request has any."""
    if not any(hash_ids):
        return None
    numbers: dict[object, int] = {}
    return [
        [numbers.setdefault(one, len(numbers)) for one in ids or [("request", at)]] for at, ids in enumerate(hash_ids)
    ]
