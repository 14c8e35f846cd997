"""The engine on one GPU, offline, with random weights in real models' shapes.

    python -m benchmarks.gpu [--json FILE] [--shapes NAME ...] [--brief] [--only work|trace] [setting=value ...]

Work: the time from a prompt to its first token; the time of a decode step, which is what 128 more tokens of the same
prompts take, over 128; and the output tokens per second of 256 requests of mixed lengths. The prefix tree is off. At
most 256 requests and 8,192 tokens run in a step. Settings are those of LLM.

Trace: decode steps of the runner alone, two at a time with the device as a worker has them, under torch's profiler:
how long no kernel runs, and which kernels take the time. Figures go to FILE as they come, traces beside it.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import on_gpu
from benchmarks.gpu_shapes import SHAPES
from lightllm import LLM
from lightllm.bench.offline import Work

MOST_TOKENS = 100_000  # prompts are random ids below this
CONTEXT = 1024
PREFILLS = (512, 2048, 8192, 32768)
BATCHES = (1, 8, 32, 64, 128, 256)
TRACED_BATCHES = (1, 256)
TRACED_STEPS = 20


@dataclass
class Figures:
    """What was measured; shown and written as it comes."""

    path: Path | None
    values: dict[str, Any] = field(default_factory=dict)

    def note(self, name: str, value: Any) -> None:
        self.values[name] = value
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}", flush=True)
        if self.path is not None:
            self.path.write_text(json.dumps(self.values, indent=1))


def mixed_rate(work: Work, count: int = 256) -> float:
    """Output tokens per second of requests of 100 to 1024 tokens in and out, drawn."""
    draw = random.Random(1)
    prompts = [work.prompts(1, draw.randint(100, 1024))[0] for _ in range(count)]
    lengths = [draw.randint(100, 1024) for _ in range(count)]
    return sum(lengths) / work.seconds(prompts, lengths, 0.6)


def _ids(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(MOST_TOKENS) for _ in range(count)]


def measure_work(shape: str, directory: Path, figures: Figures, settings: dict[str, str], *, brief: bool) -> None:
    started = time.perf_counter()
    own = {"running_max_req_size": 256, "batch_max_tokens": 8192, "disable_dynamic_prompt_cache": True}
    with LLM(str(directory), load_format="dummy", tokenizer_mode="none", **own, **settings) as llm:
        figures.note(f"{shape} start s", time.perf_counter() - started)
        work = Work(llm, _ids)
        # Kernels are compiled on the way, as numbers of requests come up that no step had yet.
        figures.note(f"{shape} 256 mixed requests, first run, tokens/s", mixed_rate(work))
        for batch in (1, 8, 32, 64, 256) if brief else BATCHES:
            figures.note(f"{shape} decode, batch {batch}, ms", work.decode_ms(batch, context=CONTEXT))
        for length in (2048, 8192) if brief else PREFILLS:
            figures.note(f"{shape} prefill {length} ms", work.prefill_ms(length))
        if not brief:
            figures.note(f"{shape} decode, batch 8, context 30k, ms", work.decode_ms(8, context=30_000, steps=64))
        figures.note(f"{shape} 256 mixed requests, tokens/s", mixed_rate(work))


def measure_trace(shape: str, directory: Path, figures: Figures, settings: dict[str, str]) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from lightllm.base.config import EngineConfig, parse
    from lightllm.compute.execution.runner import Runner

    slots = max(TRACED_BATCHES) * 2 * CONTEXT
    own = {"model_dir": str(directory), "load_format": "dummy", "max_total_token_num": slots, "device": "cuda"}
    own |= {"running_max_req_size": max(TRACED_BATCHES), "max_req_total_len": 2 * CONTEXT}
    runner = Runner(parse(EngineConfig, own | settings))
    for name, size in runner.memory:
        figures.note(f"{shape} memory: {name}, MiB", size / (1 << 20))
    for batch in TRACED_BATCHES:
        steps = Steps(runner, batch)
        steps.run(TRACED_STEPS)
        figures.note(f"{shape} runner alone, batch {batch}, ms", 1e3 * steps.run(100) / 100)
        figures.note(f"{shape} of it launching, batch {batch}, ms", 1e3 * steps.launching_s / 100)
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            steps.run(TRACED_STEPS)
            torch.cuda.synchronize()
        with tempfile.TemporaryDirectory() as folder:
            path = (figures.path.parent if figures.path else Path(folder)) / f"{shape}-batch{batch}.trace.json"
            profiler.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
        _show_trace(f"{shape} trace, batch {batch}", events, figures)


class Steps:
    """Decode steps of rows that have CONTEXT tokens."""

    def __init__(self, runner: Any, batch: int):
        from tests.compute.execution.plans import Run, plan

        self._runner, self._rows, self._length = runner, range(batch), CONTEXT
        begins = {"temperature": 0.0, "prompt_length": CONTEXT}
        slots = [range(row * 2 * CONTEXT, row * 2 * CONTEXT + CONTEXT) for row in self._rows]
        runner.step(
            plan(*(Run(row, CONTEXT - 1, [5], slots[row], told=0, begins=begins) for row in self._rows))
        )  # whatever the pool holds
        self.launching_s = 0.0

    def run(self, count: int) -> float:
        """Seconds that these steps take."""
        from tests.compute.execution.plans import decodes

        plans = []
        for _ in range(count):
            slots = [row * 2 * CONTEXT + self._length for row in self._rows]
            plans.append(decodes(self._rows, [self._length] * len(self._rows), slots))
            self._length += 1
        launched, self.launching_s, began = deque(), 0.0, time.perf_counter()
        for one in plans:
            before = time.perf_counter()
            launched.append(self._runner.launch(one))
            self.launching_s += time.perf_counter() - before
            if len(launched) == 2:
                launched.popleft().result()
        launched.popleft().result()
        return time.perf_counter() - began


def _show_trace(name: str, events: list[dict[str, Any]], figures: Figures) -> None:
    on_device = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in on_device)
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    whole = end - spans[0][0]
    figures.note(f"{name}: step, ms", whole / TRACED_STEPS / 1e3)
    figures.note(f"{name}: no kernel runs, %", 100 * (1 - busy / whole))
    figures.note(f"{name}: kernels and copies a step", len(on_device) / TRACED_STEPS)
    times: Counter[str] = Counter()
    for event in on_device:
        times[event["name"][:60]] += event["dur"]
    top = {kernel: round(100 * took / whole, 1) for kernel, took in times.most_common(12)}
    figures.note(f"{name}: share of the time, %", top)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--brief", action="store_true", help="fewer lengths and batches")
    parser.add_argument("--only", choices=["work", "trace"])
    parser.add_argument("settings", nargs="*", help="of LLM, as name=value")
    arguments = parser.parse_args()
    on_gpu.require()
    settings = dict(setting.split("=", 1) for setting in arguments.settings)
    figures = Figures(arguments.json)
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(SHAPES[shape]))
            if arguments.only != "trace":
                measure_work(shape, Path(folder), figures, settings, brief=arguments.brief)
            if arguments.only != "work":
                measure_trace(shape, Path(folder), figures, settings)


if __name__ == "__main__":
    main()
