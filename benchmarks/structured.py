"""What grammars cost: time per token of concurrent requests that each have a JSON schema of their own, and of the same
requests without.

    python -m benchmarks.structured [--requests 32] [--tokens 128] [--repeats 3] [--json FILE]
        [--tokenizer DIRECTORY] [--settings name=value ...]

On the bundled model, or with --tokenizer on random weights in the shape of Llama-3.1-8B and that tokenizer. All answers
are as long as asked: without a grammar the end is ignored, and no schema is satisfied before. Settings are LLM's.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_serve import write_checkpoint
from lightllm import LLM, SamplingParams
from lightllm.base.grammar import JsonSchema
from lightllm.base.metrics import Metrics

_PROMPT = "A list of people, with their names, kinds, numbers and codes: "
_NEVER_SATISFIED = 10_000  # items of the list
_COUNTED = ("masks_made", "mask_seconds", "mask_waits", "mask_wait_seconds", "masks_missing")


def schema(number: int) -> dict[str, Any]:
    """A list of objects, no two numbers' the same."""
    properties = {
        f"name_{number}": {"type": "string", "maxLength": 20 + number},
        "kind": {"enum": [f"kind {number} {i}" for i in range(5)]},
        "number": {"type": "integer", "minimum": 0, "maximum": 1000 + number},
        "code": {"type": "string", "pattern": f"^[A-Z]{{2}}-[0-9]{{{4 + number % 4}}}$"},
        "inner": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    }
    item = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "array", "items": item, "minItems": _NEVER_SATISFIED}


def seconds_per_token(llm: LLM, params: list[SamplingParams], tokens: int) -> float:
    began = time.perf_counter()
    results = llm.generate([_PROMPT] * len(params), params)
    seconds = time.perf_counter() - began
    lengths = {len(output.token_ids) for result in results for output in result.outputs}
    assert lengths == {tokens}, f"all answers have {tokens} tokens, not {lengths}"
    return seconds / tokens


def measure(llm: LLM, *, requests: int, tokens: int, repeats: int) -> dict[str, Any]:
    metrics = Metrics(llm._engine._supervisor._segments.metrics, 0)
    grammars = [JsonSchema(schema(number)) for number in range(requests)]
    common = {"temperature": 1.0, "max_tokens": tokens}
    free = [SamplingParams(**common, seed=seed, ignore_eos=True) for seed in range(requests)]
    held = [SamplingParams(**common, seed=seed, grammar=grammar) for seed, grammar in enumerate(grammars)]
    for params in (free, held):  # also compiles the grammars
        seconds_per_token(llm, params, tokens)
    before = {name: metrics.total(name) for name in _COUNTED}
    times: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(repeats):
        times["without"].append(seconds_per_token(llm, free, tokens))
        times["with"].append(seconds_per_token(llm, held, tokens))
    counts = {name: metrics.total(name) - before[name] for name in _COUNTED}
    without, with_grammars = (statistics.median(times[name]) for name in ("without", "with"))
    return {
        "requests": requests,
        "tokens": tokens,
        "ms_per_token_without": 1e3 * without,
        "ms_per_token_with": 1e3 * with_grammars,
        "ratio": with_grammars / without,
        "mask_us": 1e6 * counts["mask_seconds"] / counts["masks_made"],
        "wait_ms_per_step": 1e3 * counts["mask_wait_seconds"] / counts["mask_waits"],
        "masks_missing": counts["masks_missing"],
        "all_ms": {name: [1e3 * each for each in values] for name, values in times.items()},
    }


@contextlib.contextmanager
def checkpoint(tokenizer: Path | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """A model's directory and the settings it needs."""
    if tokenizer is None:
        yield "", {}
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), tokenizer)
        yield folder, {"load_format": "dummy"}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--settings", nargs="*", default=[])
    given = parser.parse_args(arguments)
    settings = dict(each.split("=", 1) for each in given.settings)
    with checkpoint(given.tokenizer) as (model, needed), LLM(model, **{**needed, **settings}) as llm:
        result = measure(llm, requests=given.requests, tokens=given.tokens, repeats=given.repeats)
    print(json.dumps(result, indent=2))
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
