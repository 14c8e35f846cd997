"""A worker that samples random words at a fixed pace and computes nothing: what is left is the path of a token."""

import sys
import time
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from lightllm.base.messages import Ready
from lightllm.base.step import StepPlan, StepResult
from lightllm.processes import worker
from lightllm.processes.ipc import child

POOL_TOKENS = 2_000_000


@dataclass
class Launched:
    plan: StepPlan
    tokens: np.ndarray
    end: float  # time.perf_counter()

    def is_ready(self) -> bool:
        return time.perf_counter() >= self.end

    def result(self) -> StepResult:
        time.sleep(max(0.0, self.end - time.perf_counter()))
        tokens = np.where(self.plan.samples, self.tokens, -1).astype(np.int32)
        logprobs, top = np.zeros(len(tokens), np.float32), np.zeros((len(tokens), 0), np.float32)
        known = logprobs, top.astype(np.int32), top
        return StepResult(self.plan.step, tokens, *known, seconds=0.0, next_was_ready=False)


class Runner:
    """Steps take `step_s` each, one after another."""

    def __init__(self, words: np.ndarray, step_s: float):
        self._words, self._step_s, self._end = words, step_s, 0.0
        self._draw = np.random.default_rng(0)

    def use_masks(self, masks: object) -> None:
        """Nothing is masked: what is measured asks for no grammar."""

    def launch(self, plan: StepPlan) -> Launched:
        self._end = max(self._end, time.perf_counter()) + self._step_s
        return Launched(plan, self._draw.choice(self._words, len(plan.rows)), self._end)


def main(me: child.Child) -> None:
    vocabulary = Tokenizer.from_file(f"{me.start.config.model_dir}/tokenizer.json").get_vocab()
    words = np.array([token for text, token in vocabulary.items() if text.startswith("Ġ") and text[1:].isalpha()])
    me.control.send(Ready(pool_tokens=POOL_TOKENS))
    worker.serve(me, Runner(words, float(sys.argv[1]) / 1e3))


if __name__ == "__main__":
    child.run("worker", main)
