"""`lightllm bench throughput` and `latency`: the engine without HTTP, with this process as its only client."""

import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from lightllm import LLM, SamplingParams
from lightllm.base.config import EngineConfig, ServerConfig, parse
from lightllm.base.errors import ConfigError
from lightllm.bench import datasets, files, prompts
from lightllm.bench.options import LatencyOptions, OfflineOptions
from lightllm.bench.prompts import Prompt
from lightllm.processes.supervision.checkpoint import resolve

_PERCENTILES = (10, 25, 50, 75, 90, 99)
_WARM_UP_TOKENS = 16
_TITLES = {
    "init_s": "start of the engine, s",
    "elapsed_time": "all prompts answered, s",
    "num_requests": "requests",
    "total_num_tokens": "tokens in and out",
    "requests_per_second": "requests/s",
    "tokens_per_second": "tokens/s in all",
    "output_tokens_per_second": "output tokens/s",
    "prefill_ms": "first tokens of a batch, ms",
    "decode_step_ms": "decode step, ms",
    "avg_latency": "batch on average, s",
}


class Work:
    """An engine, and random prompts for it that are the same every time."""

    def __init__(self, llm: LLM, make: Callable[[random.Random, int], Prompt], *, seed: int = 0, bar: bool = False):
        """`make` gives a prompt of so many tokens."""
        self._llm, self._make, self._draw, self._bar = llm, make, random.Random(seed), bar
        self.prompt_tokens = 0  # of all prompts that were answered last, as the engine counts them

    def prompts(self, count: int, tokens: int) -> list[Prompt]:
        return [self._make(self._draw, tokens) for _ in range(count)]

    def seconds(self, prompts: Sequence[Prompt], lengths: Sequence[int], temperature: float = 0.0) -> float:
        """That answers of exactly these lengths take, all prompts being there at once."""
        params = [SamplingParams(max_tokens=length, ignore_eos=True, temperature=temperature) for length in lengths]
        began = time.perf_counter()
        results = self._llm.generate(list(prompts), params, use_tqdm=self._bar)
        took = time.perf_counter() - began
        self.prompt_tokens = sum(len(result.prompt_token_ids) for result in results)
        assert [len(result.outputs[0].token_ids) for result in results] == list(lengths), "eos is ignored"
        return took

    def prefill_ms(self, tokens: int, *, times: int = 3) -> float:
        """From a prompt to its first token, best of some."""
        return 1e3 * min(self.seconds(self.prompts(1, tokens), [1]) for _ in range(times))

    def decode_ms(self, batch: int, *, context: int, steps: int = 128, times: int = 2) -> float:
        """A decode step: what more tokens of the same prompts take, by their number, each side best of some."""
        each = self.prompts(batch, context)
        short, long = (min(self.seconds(each, [n] * batch) for _ in range(times)) for n in (1, 1 + steps))
        return 1e3 * (long - short) / steps


def throughput(options: OfflineOptions, engine: dict[str, Any]) -> int:
    """`engine`: flags of EngineConfig. Raises ConfigError."""
    if options.dataset_name == "multi-turn":
        raise ConfigError("--dataset_name=multi-turn: turns wait for answers, which only `lightllm bench serve` does")
    if options.prompt_cache and options.num_iters > 1:
        raise ConfigError(
            f"--num_iters={options.num_iters} with --prompt_cache: from the second time on all prompts are cached; "
            "leave one of them out"
        )
    output = files.destination(options.output_json, "output_json")
    made = prompts.load(options, Path(options.tokenizer or _directory(engine)))
    turns = [conversation[0] for conversation in datasets.make(options, made)]
    if not options.prompt_cache:
        engine = engine | {"disable_dynamic_prompt_cache": True}
    began = time.perf_counter()
    with _llm(engine) as llm:
        started = time.perf_counter() - began
        # Whatever is made at first use is there then, and no prompt that counts is in a cache.
        warming = Work(llm, lambda draw, tokens: made.make(draw, tokens), seed=~options.seed)
        warming.seconds(warming.prompts(1, _WARM_UP_TOKENS), [2])
        work = Work(llm, lambda draw, tokens: made.make(draw, tokens), bar=not options.disable_tqdm)
        each = [turn.prompt for turn in turns]
        lengths = [turn.output_tokens for turn in turns]
        elapsed = min(work.seconds(each, lengths, options.temperature) for _ in range(options.num_iters))
    inputs, outputs = work.prompt_tokens, sum(lengths)
    figures = {
        "init_s": started,
        "elapsed_time": elapsed,
        "num_requests": len(turns),
        "total_num_tokens": inputs + outputs,
        "requests_per_second": len(turns) / elapsed,
        "tokens_per_second": (inputs + outputs) / elapsed,
        "output_tokens_per_second": outputs / elapsed,
    }
    _finish(figures, options, engine, output)
    return 0


def latency(options: LatencyOptions, engine: dict[str, Any]) -> int:
    """`engine`: flags of EngineConfig; the prefix tree is off. Raises ConfigError."""
    engine = engine | {"disable_dynamic_prompt_cache": True}
    output = files.destination(options.output_json, "output_json")
    made = prompts.load(OfflineOptions(prompt_form="ids"), _directory(engine))
    began = time.perf_counter()
    with _llm(engine) as llm:
        figures: dict[str, Any] = {"init_s": time.perf_counter() - began}
        work = Work(llm, lambda draw, tokens: made.make(draw, tokens), seed=options.seed)
        each = work.prompts(options.batch_size, options.input_len)

        def measure(times: int, tokens: int) -> list[float]:
            rounds = tqdm(range(times), desc=f"{tokens} tokens each", disable=options.disable_tqdm, leave=False)
            return [work.seconds(each, [tokens] * options.batch_size) for _ in rounds]

        measure(options.num_iters_warmup, options.output_len)
        firsts = measure(options.num_iters, 1)
        wholes = measure(options.num_iters, options.output_len) if options.output_len > 1 else firsts
        figures["prefill_ms"] = 1e3 * min(firsts)
        if options.output_len > 1:
            figures["decode_step_ms"] = 1e3 * (min(wholes) - min(firsts)) / (options.output_len - 1)
    figures["avg_latency"] = statistics.fmean(wholes)
    figures["percentiles"] = {str(p): float(np.percentile(wholes, p)) for p in _PERCENTILES}
    figures["latencies"] = wholes
    _finish(figures, options, engine, output)
    return 0


def _llm(engine: dict[str, Any]) -> LLM:
    values = dict(engine)
    return LLM(values.pop("model_dir", ""), **values)


def _directory(engine: dict[str, Any]) -> Path:
    return Path(resolve(ServerConfig(model_dir=str(engine.get("model_dir", "")), load_format="dummy")).model_dir)


def _finish(figures: dict[str, Any], options: msgspec.Struct, engine: dict[str, Any], output: Path | None) -> None:
    """Prints the figures and writes them, with what they are figures of, where that is wanted."""
    shown = {_TITLES[name]: value for name, value in figures.items() if name in _TITLES}
    shown |= {f"  p{percentile}": value for percentile, value in figures.get("percentiles", {}).items()}
    for title, value in shown.items():
        print(f"  {title:<30} {value:>14,.3f}" if isinstance(value, float) else f"  {title:<30} {value:>14,}")
    if output is not None:
        settings = msgspec.to_builtins(parse(EngineConfig, engine))
        content = {"options": msgspec.to_builtins(options), "engine": settings, **figures}
        output.write_text(json.dumps(content, indent=1))
        print(f"written to {output}")
