"""Traces drawn from published distributions of prompt and output lengths, the same for the same seed.

Source of the quantiles: the Azure LLM inference traces of 2023 (conversation, code), Mooncake's trace of conversations
(FAST'25), and the requests of ShareGPT answered by o1-preview that the past-future scheduler was evaluated on
(arXiv:2507.10150), as are the three uniform distributions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lightllm.base.errors import ConfigError
from lightllm.simulation.trace import Trace

_LEVELS = (0.5, 0.9, 0.95, 0.99, 1.0)
_TOP = NormalDist().inv_cdf(0.9999)  # where the largest length is put on the normal scale
_SCORES = np.array([*(NormalDist().inv_cdf(level) for level in _LEVELS[:-1]), _TOP])


@dataclass(frozen=True)
class Quantiles:
    """Lengths by their median, 90th, 95th and 99th percentile and maximum; below the median they spread by `sigma`.

    In between the logarithm is linear in the normal score, which makes a lognormal of parts.
    """

    values: tuple[float, float, float, float, float]
    sigma: float

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        scores = rng.standard_normal(count)
        above = np.interp(scores, _SCORES, np.log(self.values))
        return np.maximum(1, np.rint(np.exp(above + self.sigma * np.minimum(scores, 0)))).astype(np.int64)

    @property
    def longest(self) -> int:
        return int(self.values[-1])


@dataclass(frozen=True)
class Uniform:
    """Lengths least, ..., longest, each as likely."""

    least: int
    longest: int

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        return rng.integers(self.least, self.longest + 1, size=count)


@dataclass(frozen=True)
class Kind:
    """Requests of one sort. `max_tokens`, what their clients allow, is the longest output."""

    prompt: Quantiles | Uniform
    output: Quantiles | Uniform

    def draw(self, name: str, rng: np.random.Generator, count: int) -> Trace:
        prompt, output = self.prompt.draw(rng, count), self.output.draw(rng, count)
        max_tokens = np.full(count, self.output.longest)
        return Trace(name, prompt, output, max_tokens, phase=np.zeros(count, dtype=np.int64))


AZURE_CONVERSATION = Kind(
    Quantiles((1020, 2734, 4083, 4142, 14050), sigma=0.985), Quantiles((129, 424, 451, 601, 1000), sigma=0.859)
)
AZURE_CODE = Kind(
    Quantiles((1469, 5188, 7303, 7436, 7437), sigma=1.360), Quantiles((13, 55, 90, 251, 1899), sigma=0.847)
)
MOONCAKE = Kind(
    Quantiles((6909, 27367, 39550, 85400, 126195), sigma=1.199), Quantiles((350, 597, 698, 1119, 2000), sigma=1.358)
)
SHAREGPT_O1 = Kind(
    Quantiles((209, 839, 1217, 2594, 10798), sigma=1.546), Quantiles((1954, 3872, 4569, 6451, 10935), sigma=0.688)
)
DECODE_HEAVY = Kind(Uniform(32, 4096), Uniform(2048, 4096))
BALANCED = Kind(Uniform(3072, 5120), Uniform(3072, 5120))
PREFILL_HEAVY = Kind(Uniform(2048, 4096), Uniform(32, 4096))


def _mix(name: str, rng: np.random.Generator, count: int) -> Trace:
    """Each request is of either kind with the same probability."""
    code, answers = AZURE_CODE.draw(name, rng, count), SHAREGPT_O1.draw(name, rng, count)
    is_code = rng.random(count) < 0.5
    return replace(
        answers,
        prompt=np.where(is_code, code.prompt, answers.prompt),
        output=np.where(is_code, code.output, answers.output),
    )


def _shift(name: str, rng: np.random.Generator, count: int) -> Trace:
    """First code, then long answers; the clients of both allow what the longer ones need."""
    half = count // 2
    code, answers = AZURE_CODE.draw(name, rng, half), SHAREGPT_O1.draw(name, rng, count - half)
    return Trace(
        name,
        prompt=np.concatenate([code.prompt, answers.prompt]),
        output=np.concatenate([code.output, answers.output]),
        max_tokens=np.full(count, SHAREGPT_O1.output.longest),
        phase=np.repeat([0, 1], [half, count - half]),
    )


Draw = Callable[[str, np.random.Generator, int], Trace]
WORKLOADS: dict[str, Draw] = {
    "sharegpt_o1": SHAREGPT_O1.draw,
    "decode_heavy": DECODE_HEAVY.draw,
    "balanced": BALANCED.draw,
    "prefill_heavy": PREFILL_HEAVY.draw,
    "azure_code": AZURE_CODE.draw,
    "azure_conversation": AZURE_CONVERSATION.draw,
    "mooncake": MOONCAKE.draw,
    "mix": _mix,
    "shift": _shift,
}


def draw(name: str, *, seed: int, count: int) -> Trace:
    """`count` requests of the workload of this name. Raises ConfigError for an unknown name."""
    if name not in WORKLOADS:
        raise ConfigError(f"no workload is called {name!r}; choose from {', '.join(WORKLOADS)}, or give a JSONL file")
    return WORKLOADS[name](name, np.random.default_rng(seed), count)
