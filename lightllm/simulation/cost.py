"""How long a step takes, as a function of its plan, with parameters fitted to measured steps.

    seconds = fixed + token * tokens + context * (KV tokens read) + pair * (query-key pairs)

`fixed` is what any step takes (weights are read once), `token` the products, `context` reading keys and values once
per sequence, and `pair` attention's arithmetic, which is what long prompts feel.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from lightllm.base.errors import ConfigError
from lightllm.base.step import StepPlan

DEFAULT = Path(__file__).parent / "costs" / "h200-llama-8b.json"


class MeasuredStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of `sequences` alike: each runs `tokens` tokens after `context` earlier ones."""

    sequences: int
    tokens: int
    context: int
    ms: float


class StepCost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds per step, token, KV token read and query-key pair; and what they were fitted to."""

    fixed_ms: float
    token_ms: float
    context_ms: float
    pair_ms: float
    about: str = ""
    measured: list[MeasuredStep] = []

    def seconds(self, plan: StepPlan) -> float:
        starts, counts = plan.starts.astype(np.int64), plan.counts.astype(np.int64)
        pairs = counts * starts + counts * (counts + 1) // 2
        return self.of(len(plan.tokens), int((starts + counts).sum()), int(pairs.sum()))

    def of(self, tokens: float, context: float, pairs: float) -> float:
        """Seconds of a step that runs so many tokens, reads so many KV tokens and multiplies so many pairs."""
        ms = self.fixed_ms + self.token_ms * tokens + self.context_ms * context + self.pair_ms * pairs
        return ms / 1000

    def scaled(self, scale: int) -> "StepCost":
        """The cost where every token stands for `scale` tokens, and so every decode step for `scale` steps."""
        return StepCost(
            fixed_ms=self.fixed_ms * scale,
            token_ms=self.token_ms * scale,
            context_ms=self.context_ms * scale**2,
            pair_ms=self.pair_ms * scale**2,
        )


def load(path: Path) -> StepCost:
    """Reads a file as `costs/` has them. Raises ConfigError for one that is missing or not of this form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=StepCost)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"--cost={path}: {error}; see {DEFAULT} for the form") from None


def fit(steps: Sequence[MeasuredStep], about: str) -> StepCost:
    """The parameters, none of them negative, with the smallest sum of squared relative errors over `steps`."""
    features = np.array([_features(step) for step in steps])
    measured = np.array([step.ms for step in steps])
    if len(steps) < features.shape[1]:
        raise ConfigError(f"{len(steps)} measured steps cannot tell {features.shape[1]} parameters; measure more")
    parameters = _non_negative_least_squares(features / measured[:, None], np.ones(len(steps)))
    fixed, token, context, pair = (float(f"{value:.6g}") for value in parameters)
    return StepCost(fixed, token, context, pair, about=about, measured=list(steps))


def relative_errors(cost: StepCost) -> list[float]:
    """Of the cost for each step it was fitted to: (model - measured) / measured."""
    return [cost.of(*_features(step)[1:]) * 1000 / step.ms - 1 for step in cost.measured]


def _features(step: MeasuredStep) -> tuple[float, float, float, float]:
    pairs = step.tokens * step.context + step.tokens * (step.tokens + 1) / 2
    return 1, step.sequences * step.tokens, step.sequences * (step.context + step.tokens), step.sequences * pairs


def _non_negative_least_squares(matrix: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Of the few columns every subset is tried: the best one whose solution has no negative part."""
    count, best, least = matrix.shape[1], np.zeros(matrix.shape[1]), np.inf
    for subset in range(1, 2**count):
        columns = [column for column in range(count) if subset >> column & 1]
        solution = np.zeros(count)
        solution[columns] = np.linalg.lstsq(matrix[:, columns], target, rcond=None)[0]
        error = float(((matrix @ solution - target) ** 2).sum())
        if (solution >= 0).all() and error < least:
            best, least = solution, error
    return best


def write(cost: StepCost, path: Path) -> None:
    """Writes a file that `load` reads."""
    path.write_text(json.dumps(msgspec.to_builtins(cost), indent=1) + "\n")
