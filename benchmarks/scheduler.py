"""Admission policies on the bundled model over HTTP, with a pool far too small for all who ask.

    python -m benchmarks.scheduler [--rounds N] [--parallel N] [--json FILE]

CLIENTS clients ask in a closed loop for tales, descriptions, counts and multiples. They set no max_tokens: an answer
ends when the model ends it, after 1 to about 470 tokens, which the server does not know before. Policies take turns in
rounds, each on a server of its own, and are asked the same things in the same order. After WARM_UP_S they are measured
for --seconds; what was not answered by then does not count. With --parallel so many servers run beside one another, on
two cores each.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import mean, stdev
from urllib.parse import urlsplit

from tqdm import tqdm

from benchmarks import side_by_side
from lightllm.bench.connection import Connections, HttpError
from lightllm.demo.example import draw
from lightllm.demo.tasks import TASKS
from tests.end_to_end.serving import Server

WORK = ("story", "description", "count_up_or_down", "multiples")
POOL_TOKENS = 2500
CLIENTS = 48
WARM_UP_S = 30.0
QUESTIONS = 20_000  # more than can be answered
TTFT_S, GAP_S = 10.0, 0.5
POLICIES = {
    "past_future": [],
    "conservative": ["--admission", "conservative"],
    # Told the mean of the answers, which nobody knows beforehand.
    "conservative, expecting 112": ["--admission", "conservative", "--router_max_new_token_len", "112"],
    "watermark 0.99": ["--admission", "watermark", "--watermark", "0.99"],
    "watermark 0.95": ["--admission", "watermark", "--watermark", "0.95"],
    # As published systems do it: who came last gives way.
    "watermark 0.99, latest": ["--admission", "watermark", "--watermark", "0.99", "--preemption", "latest"],
    "watermark 0.95, latest": ["--admission", "watermark", "--watermark", "0.95", "--preemption", "latest"],
}


@dataclass
class Answer:
    """When its tokens came; times in s."""

    asked: float
    times: list[float] = field(default_factory=list)
    tokens: int = 0  # prompt and output, as the server counts them

    @property
    def longest_gap(self) -> float:
        return max((later - earlier for earlier, later in pairwise(self.times)), default=0.0)

    @property
    def is_good(self) -> bool:
        return self.times[0] - self.asked <= TTFT_S and self.longest_gap <= GAP_S


@dataclass(frozen=True)
class Figures:
    """Of one policy in one round."""

    goodput: float  # tokens/s of answers that were good
    throughput: float  # tokens/s
    answers: int
    good: float  # share of answers
    preemptions: float
    ttft_p99: float
    gap_p99: float  # of the longest gap of each answer


@dataclass(frozen=True)
class Job:
    """One policy in one round."""

    policy: str
    number: int
    seconds: float


def make_bodies(seed: int) -> list[bytes]:
    """Requests in their order, the same every time."""
    random = Random(seed)
    return [_body(draw(TASKS[random.choice(WORK)], random).messages, number) for number in range(QUESTIONS)]


def _body(messages: list, seed: int) -> bytes:
    asked = {"model": "lightllm-demo", "messages": messages, "temperature": 0.8, "seed": seed}
    return json.dumps(asked | {"stream": True, "stream_options": {"include_usage": True}}).encode()


def measure(job: Job) -> Figures:
    """Starts a server with this policy and asks it until the time is over."""
    waiting, seconds = iter(make_bodies(seed=job.number)), job.seconds
    with Server("--device", "cpu", "--max_total_token_num", str(POOL_TOKENS), *POLICIES[job.policy]) as server:
        asyncio.run(_ask_all(server.url, waiting, WARM_UP_S))
        before = server.metric("preemptions")
        answers = asyncio.run(_ask_all(server.url, waiting, seconds))
        preemptions = server.metric("preemptions") - before
    good = [answer for answer in answers if answer.is_good]
    return Figures(
        goodput=sum(answer.tokens for answer in good) / seconds,
        throughput=sum(answer.tokens for answer in answers) / seconds,
        answers=len(answers),
        good=len(good) / max(1, len(answers)),
        preemptions=preemptions,
        ttft_p99=_p99([answer.times[0] - answer.asked for answer in answers]),
        gap_p99=_p99([answer.longest_gap for answer in answers]),
    )


async def _ask_all(url: str, waiting: Iterator[bytes], seconds: float) -> list[Answer]:
    """The answers that were complete by then."""
    connections, answers = Connections(urlsplit(url), "/v1/chat/completions", {}), []

    async def ask() -> None:
        for body in waiting:
            answers.append(await _ask(connections, body))

    clients = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
    _, late = await asyncio.wait(clients, timeout=seconds)
    for client in late:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    connections.close()
    return answers


async def _ask(connections: Connections, body: bytes) -> Answer:
    answer = Answer(time.perf_counter())

    def read(now: float, line: bytes) -> None:
        if b'"usage":{' in line:
            answer.tokens = json.loads(line[5:])["usage"]["total_tokens"]
        elif b'"content":' in line and b'"role":' not in line:  # the first event has no token
            answer.times.append(now)

    try:
        await connections.post(body, read)
    except HttpError as error:
        raise SystemExit(f"a request failed: {error}") from None
    return answer


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))] if values else float("nan")


def table(found: dict[str, list[Figures]]) -> str:
    """Means over the rounds, with the standard error of the goodput."""
    lines = [
        "| policy | goodput, tokens/s | throughput | answers | good ones | preemptions | TTFT p99 | longest gap p99 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, rounds in found.items():
        goodputs = [one.goodput for one in rounds]
        error = stdev(goodputs) / len(rounds) ** 0.5 if len(rounds) > 1 else 0.0
        throughput, answers, good, preemptions, ttft, gap = (
            mean(getattr(one, figure) for one in rounds)
            for figure in ("throughput", "answers", "good", "preemptions", "ttft_p99", "gap_p99")
        )
        lines.append(
            f"| {name} | {mean(goodputs):,.0f} ± {error:,.0f} | {throughput:,.0f} | {answers:.0f} | "
            f"{100 * good:.1f} % | {preemptions:.0f} | {ttft:.1f} s | {1000 * gap:.0f} ms |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of each measurement")
    parser.add_argument("--parallel", type=int, default=1, help="servers that are measured at a time")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    jobs = [Job(name, number, arguments.seconds) for number in range(arguments.rounds) for name in POLICIES]
    found: dict[str, list[Figures]] = {name: [] for name in POLICIES}
    with tqdm(total=len(jobs), unit="server", disable=None) as progress:
        for job, figures in side_by_side.run(measure, jobs, parallel=arguments.parallel):
            found[job.policy].append(figures)
            progress.update()
    print(table(found))
    if arguments.json:
        plain = {name: [asdict(one) for one in rounds] for name, rounds in found.items()}
        arguments.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
