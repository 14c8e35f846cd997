"""Rotary position embedding: the table of angles, and the ways checkpoints stretch it over longer contexts.

Sources: arXiv:2104.09864 (rope), arXiv:2306.15595 (linear), arXiv:2309.00071 (dynamic, yarn),
arXiv:2407.21783 (banded), arXiv:2405.04434 (yarn's two magnitudes).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lightllm.compute.layers.layer import Site
from lightllm.compute.weights.weight import Computed, Declared


def inverse_frequencies(theta: float, dim: int) -> Tensor:
    """Angle per position of each pair: theta^(-2 i / dim), [dim / 2] float32."""
    return 1.0 / theta ** (torch.arange(0, dim, 2).float() / dim)


class Scaling(Protocol):
    """How positions become angles. Fields are named as in the checkpoint's config.json."""

    def angles(self, theta: float, dim: int, positions: int) -> Tensor:
        """[positions, dim / 2] float32."""
        ...

    def longest(self, max_position_embeddings: int) -> int:
        """How many positions the model is made for."""
        ...

    @property
    def magnitude(self) -> float:
        """Cosines and sines are multiplied by this."""
        ...


def _uniform(frequencies: Tensor, positions: int) -> Tensor:
    return torch.arange(positions).float().unsqueeze(-1) * frequencies


@dataclass(frozen=True, kw_only=True)
class Default:
    """No scaling."""

    magnitude = 1.0

    def angles(self, theta: float, dim: int, positions: int) -> Tensor:
        return _uniform(inverse_frequencies(theta, dim), positions)

    def longest(self, max_position_embeddings: int) -> int:
        return max_position_embeddings


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Positions divided by `factor`."""

    factor: float
    magnitude = 1.0

    def angles(self, theta: float, dim: int, positions: int) -> Tensor:
        return _uniform(inverse_frequencies(theta, dim) / self.factor, positions)

    def longest(self, max_position_embeddings: int) -> int:
        return int(max_position_embeddings * self.factor)


@dataclass(frozen=True, kw_only=True)
class Dynamic:
    """A larger theta for each position past the trained ones, as if the sequence ended there.

    So a token's angle depends on its position alone, not on what else is computed with it.
    """

    factor: float
    max_position_embeddings: int
    magnitude = 1.0

    def angles(self, theta: float, dim: int, positions: int) -> Tensor:
        length = torch.arange(1, positions + 1).clamp(min=self.max_position_embeddings).double()
        stretch = self.factor * length / self.max_position_embeddings - (self.factor - 1)
        thetas = (theta * stretch ** (dim / (dim - 2))).unsqueeze(-1)
        frequencies = thetas ** -(torch.arange(0, dim, 2).double() / dim)
        return (torch.arange(positions).unsqueeze(-1) * frequencies).float()

    def longest(self, max_position_embeddings: int) -> int:
        return int(max_position_embeddings * self.factor)


@dataclass(frozen=True, kw_only=True)
class Banded:
    """Slow pairs divided by `factor`, fast ones kept, those between blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int
    magnitude = 1.0

    def angles(self, theta: float, dim: int, positions: int) -> Tensor:
        frequencies = inverse_frequencies(theta, dim)
        turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        return _uniform(torch.lerp(frequencies / self.factor, frequencies, kept.clamp(0, 1)), positions)

    def longest(self, max_position_embeddings: int) -> int:
        return max_position_embeddings


@dataclass(frozen=True, kw_only=True)
class Yarn:
    """As Banded, with the blend linear over pairs, and with cosines and sines made larger."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32
    beta_slow: float = 1
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self.growth(self.mscale) / self.growth(self.mscale_all_dim)
        return self.growth(1.0)

    def growth(self, mscale: float) -> float:
        """0.1 mscale ln(factor) + 1."""
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def angles(self, theta: float, dim: int, positions: int) -> Tensor:
        def pair(turns: float) -> float:
            """The pair that makes this many turns over the trained positions."""
            return dim * math.log(self.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        divided = ((torch.arange(dim // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
        frequencies = inverse_frequencies(theta, dim)
        return _uniform(torch.lerp(frequencies, frequencies / self.factor, divided), positions)

    def longest(self, max_position_embeddings: int) -> int:
        return max(max_position_embeddings, int(self.original_max_position_embeddings * self.factor))


SCALINGS: Mapping[str, type[Scaling]] = {
    "default": Default,
    "linear": Linear,
    "dynamic": Dynamic,
    "llama3": Banded,
    "yarn": Yarn,
}


@dataclass(frozen=True)
class RopeConfig:
    """What a checkpoint says of its positions. `max_positions`: how far the model is made to count."""

    theta: float
    scaling: Scaling
    max_positions: int


class Rope(nn.Module):
    """The table [positions, dim] float32 of cosines, then sines. One for all layers of a model."""

    table: Tensor

    def __init__(self, config: RopeConfig, dim: int):
        super().__init__()
        self.config, self.dim, self.positions = config, dim, config.max_positions

    def place(self, site: Site) -> Mapping[str, Declared]:
        return {"table": Computed(self.compute)}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        self.table = tensors["table"]

    def compute(self) -> Tensor:
        angles = self.config.scaling.angles(self.config.theta, self.dim, self.positions)
        return torch.cat([angles.cos(), angles.sin()], dim=-1) * self.config.scaling.magnitude
