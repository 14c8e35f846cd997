"""What each number format costs in quality: `python -m benchmarks.quantization --model DIR --samples 10`.

Held-out questions of the bundled model's tasks: the mean loss of a token of the right answers, the part of answers that
are right, and the part of greedy answers that are those of the unquantized model, token for token; and questions about
documents of 8,192 tokens or more, or of nearly the whole context where that is shorter. All in bfloat16, so that
activations are rounded where a format says so. On a CPU keys and values are float32 unless a format says otherwise; on
a GPU what has no kernel is computed by its reference.

The first row and the last are one format: only the order of sums differs, as other requests run beside.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import torch

from lightllm import LLM, SamplingParams
from lightllm.base.config import EngineConfig, parse
from lightllm.compute.execution.loading import STATE_FORMATS, load, read_blueprint
from lightllm.compute.parallel.mesh import Mesh
from lightllm.compute.state.layer_state import Format
from lightllm.demo import MODEL_DIR
from lightllm.demo.evaluate import Prompter, Question, held_out_questions, look_up_in
from lightllm.llm import RequestOutput

WEIGHTS = (
    "ao-w8a16",
    "vllm-w8a8",
    "ao-fp8w8a16",
    "vllm-fp8w8a8",
    "fp8w8a8-b128",
    "ao-w4a16-128",
    "ao-w4a16-32",
)
KINDS = ("fp8", "int8", "int4")
FORMATS: Mapping[str, Mapping[str, Any]] = {
    "bf16": {},
    **{f"KV {name}": {"kv_type": name} for name in KINDS},
    **{name: {"quant_type": name} for name in WEIGHTS},
    "bf16, 8 at a time": {"running_max_req_size": 8},
}
LONG = "long document"
LONG_TOKENS = range(8192, 10241)
SPARE_TOKENS = 8
STEP_TOKENS = 2048


@dataclass(frozen=True)
class Said:
    """What one format made of the questions. loss: of a token of the answers to all but the long documents."""

    loss: float
    is_right: list[bool]
    answers: list[list[int]]


@dataclass(frozen=True)
class Row:
    """One format. right, same: part of all but the long documents; found: part of these, if there are any.

    tasks: right answers and questions, by name.
    """

    name: str
    weight_bytes: int
    token_bytes: int
    loss: float
    right: float
    found: float | None
    same: float
    tasks: dict[str, tuple[int, int]]


def long_documents(prompter: Prompter, count: int) -> Iterator[Question]:
    """Questions about values that stand anywhere in documents of LONG_TOKENS, as far as the context goes."""
    most = min(LONG_TOKENS.stop, prompter.context - 64)
    lengths = range(min(LONG_TOKENS.start, most * 97 // 100), most)
    random = Random(8192)
    for _ in range(count):
        yield look_up_in(prompter, random, lengths, name=LONG)


def mean_loss(scored: Iterable[RequestOutput], answers: Sequence[Sequence[int]]) -> float:
    """Of the tokens of the answers, which end the prompts that were scored."""
    losses: list[float] = []
    for one, answer in zip(scored, answers, strict=True):
        known = one.prompt_logprobs
        assert known is not None, "prompt_logprobs were asked for"
        losses += [-place[token].logprob for token, place in zip(answer, known[-len(answer) :], strict=True) if place]
    return sum(losses) / len(losses)


def ask(prompter: Prompter, questions: Sequence[Question], model: Path, settings: Mapping[str, Any]) -> Said:
    """The model's own answers, and the loss of the right ones."""
    answers = [prompter.tokenizer.encode(one.example.answer, add_special_tokens=False) for one in questions]
    greedy = [SamplingParams(temperature=0, max_tokens=2 * len(answer) + SPARE_TOKENS) for answer in answers]
    short = [(one, answer) for one, answer in zip(questions, answers, strict=True) if one.task_name != LONG]
    with LLM(str(model), data_type="bfloat16", **settings) as llm:
        said = [one.outputs[0] for one in llm.generate([one.prompt for one in questions], greedy)]
        whole = [one.prompt + answer for one, answer in short]
        scored = llm.generate(whole, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
    ended = [answer.text if answer.finish_reason == "stop" else None for answer in said]
    return Said(
        mean_loss(scored, [answer for _, answer in short]),
        [replace(one, text=text).is_right() for one, text in zip(questions, ended, strict=True)],
        [list(answer.token_ids) for answer in said],
    )


def sizes(model: Path, form: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of the weights, and of a token's keys and values."""
    config = parse(EngineConfig, {"model_dir": str(model), "data_type": "bfloat16", **form})
    built, weight_bytes = load(read_blueprint(config, torch.device("cpu")), config, Mesh())
    state = STATE_FORMATS.get(config.kv_type, Format(torch.bfloat16))
    return weight_bytes, sum(layer.bytes_per_token(state) for layer in built.states())


def row_of(name: str, byte_sizes: tuple[int, int], said: Said, reference: Said, questions: Sequence[Question]) -> Row:
    same = [one == other for one, other in zip(said.answers, reference.answers, strict=True)]
    names = [one.task_name for one in questions]
    asked, right = Counter(names), Counter[str]()
    for task, is_right in zip(names, said.is_right, strict=True):
        right[task] += is_right
    short = len(questions) - asked[LONG]
    return Row(
        name,
        *byte_sizes,
        loss=said.loss,
        right=(right.total() - right[LONG]) / short,
        found=right[LONG] / asked[LONG] if asked[LONG] else None,
        same=sum(one for one, task in zip(same, names, strict=True) if task != LONG) / short,
        tasks={task: (right[task], count) for task, count in asked.items()},
    )


def line(row: Row) -> str:
    found = "" if row.found is None else f"{row.found:.1%}"
    size = f"{row.weight_bytes / 1e6:.1f} MB | {row.token_bytes}"
    return f"| {row.name} | {size} | {row.loss:.4f} | {row.right:.1%} | {found} | {row.same:.1%} |"


def in_turn(measure: Callable[[str], Said], *, at_a_time: int) -> Iterator[tuple[str, Said]]:
    """Every format but the first, as they come; what failed is told."""
    with ThreadPoolExecutor(at_a_time) as pool:
        futures = {pool.submit(measure, name): name for name in list(FORMATS)[1:]}
        for future in as_completed(futures):
            if (error := future.exception()) is None:
                yield futures[future], future.result()
            else:
                print(f"{futures[future]} failed: {error}", file=sys.stderr, flush=True)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR, help="folder of the checkpoint")
    parser.add_argument("--samples", type=int, default=10, help="held-out questions of each task")
    parser.add_argument("--documents", type=int, default=20, help="questions about long documents")
    parser.add_argument("--longest", type=int, help="leave out other questions of more tokens than this")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="engines at a time")
    parser.add_argument("--pool_tokens", type=int, default=32768, help="slots of an engine's pool")
    parser.add_argument("--json", type=Path, help="file for the figures, those by task included")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    prompter = Prompter(options.model)
    longest = options.longest or prompter.context
    every = held_out_questions(prompter, options.samples, seed=1)
    questions = [one for one in every if len(one.prompt) + 2 * one.answer_tokens + SPARE_TOKENS <= longest]
    questions += long_documents(prompter, options.documents)
    print(f"{len(questions)} questions, {options.documents} of them about long documents", flush=True)
    print("| format | weights | KV bytes a token | loss | right | found | same |\n|---|---|---|---|---|---|---|")
    settings = {
        "device": options.device,
        "allow_reference_ops": options.device == "cuda",
        "max_total_token_num": options.pool_tokens,
        "batch_max_tokens": STEP_TOKENS,
    }

    def measure(name: str) -> Said:
        return ask(prompter, questions, options.model, settings | FORMATS[name])

    first = next(iter(FORMATS))
    reference = measure(first)
    rows: dict[str, Row] = {}
    for name, said in chain([(first, reference)], in_turn(measure, at_a_time=options.processes)):
        row = row_of(name, sizes(options.model, FORMATS[name]), said, reference, questions)
        rows[name] = row
        print(line(row), flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(rows[one]) for one in FORMATS if one in rows]))
    sys.exit(len(rows) < len(FORMATS))


if __name__ == "__main__":
    main()
