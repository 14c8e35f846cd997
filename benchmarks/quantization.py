"""What each number format costs in quality, on the CPU: `python -m benchmarks.quantization --model DIR --samples 10`.

Held-out questions of the bundled model's tasks: the mean loss of a token of the right answers, the part of answers that
are right, and the part of greedy answers that are those of the unquantized model, token for token. All in bfloat16, so
that activations are rounded where a format says so; keys and values are float32 unless --kv_type says otherwise.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightllm import LLM, SamplingParams
from lightllm.demo import MODEL_DIR
from lightllm.demo.evaluate import Judge, Question, held_out_questions
from lightllm.demo.layout import CONTEXT

WEIGHTS = (
    "none",
    "ao-w8a16",
    "vllm-w8a8",
    "ao-fp8w8a16",
    "vllm-fp8w8a8",
    "fp8w8a8-b128",
    "ao-w4a16-128",
    "ao-w4a16-32",
)
KINDS = ("fp8", "int8", "int4")
FORMATS = [{"quant_type": name} for name in WEIGHTS] + [{"kv_type": name} for name in KINDS]
SPARE_TOKENS = 8


@dataclass(frozen=True)
class Row:
    """One format. answers: token ids of each greedy one."""

    name: str
    loss: float
    right: float
    retrieved: float
    answers: list[list[int]]


def measure(model: Path, form: dict[str, Any], judge: Judge, questions: Sequence[Question]) -> Row:
    """The loss of the right answers and the model's own answers."""
    tokenizer = judge.tokenizer
    answers = [tokenizer.encode(one.example.answer, add_special_tokens=False) for one in questions]
    greedy = [SamplingParams(temperature=0, max_tokens=2 * len(answer) + SPARE_TOKENS) for answer in answers]
    with LLM(str(model), device="cpu", data_type="bfloat16", **form) as llm:
        said = [one.outputs[0] for one in llm.generate([one.prompt for one in questions], greedy)]
        scored = llm.generate(
            [one.prompt + answer for one, answer in zip(questions, answers, strict=True)],
            SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0),
        )
    total = count = 0
    for one, answer in zip(scored, answers, strict=True):
        known = one.prompt_logprobs
        assert known is not None
        for token, place in zip(answer, known[-len(answer) :], strict=True):
            assert place is not None
            total, count = total - place[token].logprob, count + 1
    for one, answer in zip(questions, said, strict=True):
        one.text = answer.text if answer.finish_reason == "stop" else None
    looked_up = [one.is_right() for one in questions if one.task_name.startswith("look_up_in")]
    right = sum(one.is_right() for one in questions) / len(questions)
    ids = [list(answer.token_ids) for answer in said]
    return Row(" ".join(form.values()), total / count, right, sum(looked_up) / max(len(looked_up), 1), ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="folder of the checkpoint")
    parser.add_argument("--samples", type=int, default=10, help="held-out questions of each task")
    parser.add_argument("--longest", type=int, default=CONTEXT, help="leave out questions of more tokens than this")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    judge = Judge(options.model, device="cpu")
    every = held_out_questions(judge, options.samples, seed=1)
    questions = [one for one in every if len(one.prompt) + 2 * one.answer_tokens + SPARE_TOKENS <= options.longest]
    print(f"{len(questions)} questions\n| format | loss | right | found in long documents | same as bf16 |")
    print("|---|---|---|---|---|")
    rows: list[Row] = []
    for form in FORMATS:
        row = measure(options.model, form, judge, questions)
        rows.append(row)
        same = sum(a == b for a, b in zip(row.answers, rows[0].answers, strict=True)) / len(questions)
        print(f"| {row.name} | {row.loss:.4f} | {row.right:.1%} | {row.retrieved:.1%} | {same:.1%} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows]))


if __name__ == "__main__":
    main()
