"""Offline and HTTP throughput on the bundled model, against transformers' generate on the same CPU.

    python -m benchmarks.cpu [--json FILE] [--plot FILE]

The same prompts and output lengths for all: PROMPTS prompts of 8 to 120 tokens, answers of 16 to 128 tokens with eos
ignored. Static batches run to their longest answer, as static batches must; only the tokens asked for are counted.
transformers computes with one thread and with one per core, and the better rate counts.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from lightllm import LLM, SamplingParams
from lightllm.bench import clients, figures, outcome
from lightllm.bench.backends import PATHS
from lightllm.bench.datasets import Turn
from lightllm.demo import MODEL_DIR

PROMPTS = 128
CONCURRENCY = 32
STATIC_BATCHES = (1, 8, 32, 64)
Work = list[tuple[list[int], int]]


def make_work() -> Work:
    """(prompt token ids, output length), the same every time."""
    draw = random.Random(0)
    return [
        ([draw.randrange(300, 4000) for _ in range(draw.randint(8, 120))], draw.randint(16, 128))
        for _ in range(PROMPTS)
    ]


def measure_transformers(work: Work, batch: int, threads: int) -> float:
    """Output tokens per second of `generate` over static batches, shortest padding first."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    # One at a time is slow: an eighth of the work tells its rate.
    part = work if batch > 1 else work[:: max(1, len(work) // 16)]
    ordered = sorted(part, key=lambda item: item[1])
    began, tokens = time.perf_counter(), 0
    for first in tqdm(range(0, len(ordered), batch), desc=f"transformers, batch {batch}, threads {threads}"):
        group = ordered[first : first + batch]
        width = max(len(prompt) for prompt, _ in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (prompt, _) in enumerate(group):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        longest = max(length for _, length in group)
        with torch.inference_mode():
            model.generate(ids, attention_mask=mask, do_sample=False, min_new_tokens=longest, max_new_tokens=longest)
        tokens += sum(length for _, length in group)
    return tokens / (time.perf_counter() - began)


def measure_offline(work: Work) -> float:
    """Output tokens per second of `LLM.generate` with all prompts at once."""
    params = [SamplingParams(max_tokens=length, ignore_eos=True, temperature=0) for _, length in work]
    with LLM(str(MODEL_DIR), disable_dynamic_prompt_cache=True) as llm:
        llm.generate([work[0][0]], params[0])
        began = time.perf_counter()
        results = llm.generate([prompt for prompt, _ in work], params)
        took = time.perf_counter() - began
    assert [len(result.outputs[0].token_ids) for result in results] == [length for _, length in work]
    return sum(length for _, length in work) / took


def measure_http(work: Work) -> float:
    """Output tokens per second through /v1/completions, streamed, CONCURRENCY requests at a time."""
    from tests.end_to_end.serving import Server

    with Server("--disable_dynamic_prompt_cache") as server:
        _request_all(server.url, work[:CONCURRENCY])
        measured = _request_all(server.url, work)
    assert [one.output_tokens for one in measured.outcomes] == [length for _, length in work]
    return figures.totals(measured.outcomes, {})["output_throughput"]


def _request_all(url: str, work: Work) -> clients.Measured:
    order = outcome.Work(
        url=url,
        path=PATHS["openai"],
        headers={},
        backend="openai",
        model="lightllm-demo",
        sampling={"temperature": 0.0, "ignore_eos": True},
        max_concurrency=CONCURRENCY,
        numbers=list(range(len(work))),
        due=[0.0] * len(work),
        conversations=[[Turn(prompt, len(prompt), length)] for prompt, length in work],
        keeps_text=False,
    )
    return clients.run([order], num_requests=len(work), bar=True, title="HTTP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw them here (needs matplotlib)")
    arguments = parser.parse_args()
    threads = sorted({1, len(os.sched_getaffinity(0))})
    rates = {
        f"transformers, batch {batch}": max(_in_own_process(batch, count) for count in threads)
        for batch in STATIC_BATCHES
    }
    work = make_work()
    rates["LightLLM, offline"] = measure_offline(work)
    rates[f"LightLLM, HTTP, {CONCURRENCY} at a time"] = measure_http(work)
    print("\n| | out tok/s |\n| --- | --- |")
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=1))
    if arguments.plot:
        draw(rates, arguments.plot)


def _in_own_process(batch: int, threads: int) -> float:
    """transformers is measured in a process that ends, so that it takes no memory or threads from the others."""
    code = f"from benchmarks.cpu import *; print(measure_transformers(make_work(), {batch}, {threads}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def draw(rates: dict[str, float], path: Path) -> None:
    """A bar for each figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.2))
    colours = ["#3b5b92" if name.startswith("LightLLM") else "#bbbbbb" for name in rates]
    bars = axes.barh(list(rates), list(rates.values()), color=colours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("output tokens per second")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
