"""Score a checkpoint on held-out questions: `python -m lightllm.demo.evaluate --model DIR --samples 200`.

Greedy answers, bfloat16 weights, float32 arithmetic. An answer counts only if it ends by itself and its task's checker
takes it.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer, Qwen3ForCausalLM

from lightllm.demo import MODEL_DIR
from lightllm.demo.example import Example, Task, draw
from lightllm.demo.mixture import Renderer
from lightllm.demo.reworded import REWORDED
from lightllm.demo.tasks import TASKS
from lightllm.demo.tasks.lookup import look_up

SPARE_TOKENS = 8
CONTEXT_SIZES = [256, 512, 1024, 2048, 4096, 7168]


@dataclass
class Question:
    """One example of a task, tokenized; `text` is what the model answers, None while it has not ended by itself."""

    task_name: str
    task: Task
    example: Example
    prompt: list[int]
    answer_tokens: int
    text: str | None = None

    def is_right(self) -> bool:
        return self.text is not None and self.task.is_right(self.example, self.text)


class Prompter:
    """Writes examples as a checkpoint's tokens. context: the most that it takes."""

    def __init__(self, folder: Path):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.context = int(self.tokenizer.model_max_length)
        self.renderer = Renderer()

    def prepare(self, name: str, task: Task, example: Example) -> Question:
        prompt = self.tokenizer.encode(self.renderer.prompt(example), add_special_tokens=False)
        answer = self.tokenizer.encode(example.answer, add_special_tokens=False)
        return Question(name, task, example, prompt, len(answer))


class Judge:
    """Asks a checkpoint; batches are questions of like length, padded on the left."""

    def __init__(self, folder: Path, *, device: str):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.to(device)  # pyright: ignore[reportArgumentType]
        self.ends = set(self.model.generation_config.eos_token_id)
        # Padded attention keeps rows x length x length scores; long prompts go one by one, unpadded.
        self.batch_area = 10**9 if device == "cuda" else 10**7

    def batches(self, questions: list[Question]) -> Iterator[list[Question]]:
        batch: list[Question] = []
        longest = 0
        # Rows of a batch are alike in the rough length of the answer first, of the prompt next.
        for one in sorted(questions, key=lambda one: (one.answer_tokens.bit_length(), len(one.prompt))):
            size = len(one.prompt) + 2 * one.answer_tokens
            if batch and max(longest, size) ** 2 * (len(batch) + 1) > self.batch_area:
                yield batch
                batch, longest = [], 0
            batch.append(one)
            longest = max(longest, size)
        yield batch

    @torch.inference_mode()
    def ask(self, questions: list[Question]) -> None:
        """Fill in every question's `text`."""
        for batch in self.batches(questions):
            width = max(len(one.prompt) for one in batch)
            tokens = torch.tensor([[0] * (width - len(one.prompt)) + one.prompt for one in batch])
            mask = torch.tensor([[0] * (width - len(one.prompt)) + [1] * len(one.prompt) for one in batch])
            out = self.model.generate(  # pyright: ignore[reportAttributeAccessIssue]
                tokens.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                max_new_tokens=2 * max(one.answer_tokens for one in batch) + SPARE_TOKENS,
            )
            for one, row in zip(batch, out[:, width:].tolist(), strict=True):
                end = next((i for i, token in enumerate(row) if token in self.ends), None)
                one.text = None if end is None else self.tokenizer.decode(row[:end])


def look_up_in(
    prompter: Prompter, random: Random, lengths: range, *, name: str, is_question_first: bool = False
) -> Question:
    """One question about a document that makes a prompt of so many tokens."""

    longest = lengths.stop - 1

    def make(random: Random) -> Example:
        # An entry takes 5 to 14 tokens.
        num_entries = random.randint(longest // 14, longest // 5)
        return look_up(random, num_entries, 1, 0, question_first=0.8 if is_question_first else 0)

    task = Task(make, 0)
    while True:
        question = prompter.prepare(name, task, draw(task, random, held_out=True))
        in_system_turn = question.example.messages[0]["role"] == "system"
        if len(question.prompt) in lengths and not (is_question_first and in_system_turn):
            return question


def up_to(size: int) -> range:
    """80 to 100 % of so many tokens."""
    return range(-(-4 * size // 5), size + 1)


def held_out_questions(prompter: Prompter, samples: int, seed: int) -> Iterator[Question]:
    for name, task in (TASKS | {"reworded": REWORDED}).items():
        random = Random(f"{seed} {name}")
        for _ in range(samples):
            held_out = task is not REWORDED
            yield prompter.prepare(name, task, draw(task, random, held_out=held_out))
    for size in CONTEXT_SIZES:
        random = Random(f"{seed} {size}")
        for _ in range(max(1, samples // 5)):
            yield look_up_in(prompter, random, up_to(size), name=f"look_up_in_{size}_tokens")
    random = Random(f"{seed} first")
    for _ in range(max(1, samples // 5)):
        yield look_up_in(prompter, random, up_to(512), name="question_before_512_tokens", is_question_first=True)


def evaluate_checkpoint(
    folder: Path, *, samples: int, log: Callable[[str], None] = print, seed: int = 1
) -> dict[str, float]:
    """The part of right answers by task; also written to scores.json beside the weights."""
    start = time.monotonic()
    prompter, judge = Prompter(folder), Judge(folder, device="cuda" if torch.cuda.is_available() else "cpu")
    scores = {}
    for name, group in groupby(held_out_questions(prompter, samples, seed), key=lambda one: one.task_name):
        mine = [one for one in group if len(one.prompt) + 2 * one.answer_tokens <= prompter.context]
        judge.ask(mine)
        scores[name] = sum(one.is_right() for one in mine) / len(mine)
        wrong = next((one for one in mine if not one.is_right()), None)
        miss = f"   wanted {wrong.example.answer[:60]!r}, got {(wrong.text or 'no end')[:60]!r}" if wrong else ""
        log(f"{name:24s} {scores[name]:6.1%} of {len(mine)}{miss}")
    log(f"scored in {time.monotonic() - start:.1f} s")
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="folder of the checkpoint")
    parser.add_argument("--samples", type=int, default=100, help="held-out questions of each task")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    evaluate_checkpoint(options.model, samples=options.samples, seed=options.seed)


if __name__ == "__main__":
    main()
