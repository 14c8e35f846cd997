"""What each number format costs in quality: `python -m benchmarks.quantization --model DIR --samples 10`.

Held-out questions of the bundled model's tasks: the mean loss of a token of the right answers, of those questions to
which there is but one; the part of answers that are right; the part of greedy answers that are those of the unquantized
model, token for token; and questions about documents of 8,192 tokens or more, or of nearly the whole context where that
is shorter. All in bfloat16, so that activations are rounded where a format says so. On a CPU keys and values are
float32 unless a format says otherwise; on a GPU what has no kernel is computed by its reference.

The first row and the last are one format: only the order of sums differs, as other requests run beside.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from random import Random
from statistics import fmean
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
    "ao-fp6w6a16",
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
MANY_ANSWERS = ("story", "description")  # tasks of which any tale is a right answer
LONG_TOKENS = range(8192, 10241)
SPARE_TOKENS = 8
STEP_TOKENS = 2048


@dataclass(frozen=True)
class Said:
    """What one format makes of a question. losses: of the right answer's tokens; none if the document is long."""

    task: str
    answer: list[int]
    is_right: bool
    losses: list[float]


@dataclass(frozen=True)
class Figures:
    """Of some questions: how many, the parts that are answered right and as by the first format, and the mean loss of
    a token of the right answers, if it is known."""

    asked: int
    right: float
    same: float
    loss: float | None


@dataclass(frozen=True)
class Row:
    """One format: bytes of the weights and of a token's keys and values, and how questions are answered."""

    name: str
    weight_bytes: int
    token_bytes: int
    tasks: dict[str, Figures]
    long: Figures | None  # those about long documents
    others: Figures
    exact: Figures  # of the others, those that have one right answer


def long_documents(prompter: Prompter, count: int) -> Iterator[Question]:
    """Questions about values that stand anywhere in documents of LONG_TOKENS, as far as the context goes."""
    most = min(LONG_TOKENS.stop, prompter.context - 64)
    lengths = range(min(LONG_TOKENS.start, most * 97 // 100), most)
    random = Random(8192)
    for _ in range(count):
        yield look_up_in(prompter, random, lengths, name=LONG)


def losses(scored: RequestOutput, answer: Sequence[int]) -> list[float]:
    """Of the tokens of an answer, which ends the prompt that was scored."""
    known = scored.prompt_logprobs
    assert known is not None, "prompt_logprobs were asked for"
    return [-place[token].logprob for token, place in zip(answer, known[-len(answer) :], strict=True) if place]


def ask(prompter: Prompter, questions: Sequence[Question], model: Path, settings: Mapping[str, Any]) -> list[Said]:
    """The model's own answers, and the losses of the right ones."""
    answers = [prompter.tokenizer.encode(one.example.answer, add_special_tokens=False) for one in questions]
    greedy = [SamplingParams(temperature=0, max_tokens=2 * len(answer) + SPARE_TOKENS) for answer in answers]
    short = [at for at, one in enumerate(questions) if one.task_name != LONG]
    with LLM(str(model), data_type="bfloat16", **settings) as llm:
        said = [one.outputs[0] for one in llm.generate([one.prompt for one in questions], greedy)]
        whole = [questions[at].prompt + answers[at] for at in short]
        scored = llm.generate(whole, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0))
    known = {at: losses(one, answers[at]) for at, one in zip(short, scored, strict=True)}
    texts = [answer.text if answer.finish_reason == "stop" else None for answer in said]
    return [
        Said(one.task_name, list(said[at].token_ids), replace(one, text=texts[at]).is_right(), known.get(at, []))
        for at, one in enumerate(questions)
    ]


def sizes(model: Path, form: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of the weights, and of a token's keys and values."""
    config = parse(EngineConfig, {"model_dir": str(model), "data_type": "bfloat16", **form})
    built, weight_bytes = load(read_blueprint(config, torch.device("cpu")), config, Mesh())
    state = STATE_FORMATS.get(config.kv_type, Format(torch.bfloat16))
    return weight_bytes, sum(layer.bytes_per_token(state) for layer in built.states())


def figures(pairs: Collection[tuple[Said, Said]]) -> Figures:
    """Of what two formats make of the same questions, of which there is one at least."""
    known = [loss for one, _ in pairs for loss in one.losses]
    return Figures(
        asked=len(pairs),
        right=fmean(one.is_right for one, _ in pairs),
        same=fmean(one.answer == other.answer for one, other in pairs),
        loss=fmean(known) if known else None,
    )


def row_of(name: str, byte_sizes: tuple[int, int], said: Sequence[Said], reference: Sequence[Said]) -> Row:
    by_task: defaultdict[str, list[tuple[Said, Said]]] = defaultdict(list)
    for pair in zip(said, reference, strict=True):
        by_task[pair[0].task].append(pair)
    long = by_task.pop(LONG, [])
    exact = [pairs for task, pairs in by_task.items() if task not in MANY_ANSWERS]
    return Row(
        name,
        *byte_sizes,
        tasks={task: figures(pairs) for task, pairs in by_task.items()},
        long=figures(long) if long else None,
        others=figures(list(chain.from_iterable(by_task.values()))),
        exact=figures(list(chain.from_iterable(exact))),
    )


def line(row: Row) -> str:
    found = "" if row.long is None else f"{row.long.right:.1%}"
    size = f"{row.weight_bytes / 1e6:.1f} MB | {row.token_bytes}"
    right, same = f"{row.others.right:.1%}", f"{row.exact.same:.1%} | {row.others.same:.1%}"
    return f"| {row.name} | {size} | {row.exact.loss:.5f} | {right} | {found} | {same} |"


def in_turn(measure: Callable[[str], list[Said]], *, at_a_time: int) -> Iterator[tuple[str, list[Said]]]:
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
    print("| format | weights | KV bytes a token | loss | right | found | same, exact | same |\n" + "|---" * 8 + "|")
    settings = {
        "device": options.device,
        "allow_reference_ops": options.device == "cuda",
        "max_total_token_num": options.pool_tokens,
        "batch_max_tokens": STEP_TOKENS,
        "log_level": "error",  # kernels are compiled as they are needed, and engines would say so each time
    }

    def measure(name: str) -> list[Said]:
        return ask(prompter, questions, options.model, {**settings, **FORMATS[name]})

    first = next(iter(FORMATS))
    reference = measure(first)
    rows: dict[str, Row] = {}
    for name, said in chain([(first, reference)], in_turn(measure, at_a_time=options.processes)):
        row = row_of(name, sizes(options.model, FORMATS[name]), said, reference)
        rows[name] = row
        print(line(row), flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(rows[one]) for one in FORMATS if one in rows]))
    sys.exit(len(rows) < len(FORMATS))


if __name__ == "__main__":
    main()
