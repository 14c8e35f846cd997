"""What a streamed token costs on its way from the worker to the client, in CPU time of each process.

    python -m benchmarks.http_path [--streams N] [--tokens N] [--step-ms X] [--api-processes N] [--backend NAME]

All processes of a server are real but the worker, which samples words at a fixed pace and computes nothing. CPU time
is the kernel's count for each process while all streams run; its inverse is what the process could do with a core of
its own. With as many cores as processes, "reached" is what it does.
"""

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from lightllm.base.config import ServerConfig, parse
from lightllm.bench import clients, figures
from lightllm.bench.backends import PATHS
from lightllm.bench.datasets import Turn
from lightllm.bench.outcome import Work
from lightllm.demo import MODEL_DIR
from lightllm.processes.supervision.member import python_module
from lightllm.processes.supervisor import Supervisor

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> np.ndarray:
    """In the process and in the kernel for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return np.array([int(fields[11]), int(fields[12])]) / _TICKS


def children() -> dict[str, int]:
    """Process ids by name, numbered where there are several of one kind."""
    found: dict[str, int] = {}
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for pid in (task / "children").read_text().split():
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            name = next(
                (part.rpartition(".")[2] for part in line if part.startswith(("lightllm.pro", "benchmarks."))), ""
            )
            if name:
                found[f"{name} {sum(key.startswith(name) for key in found)}"] = int(pid)
    return found


def work(arguments: argparse.Namespace, url: str, tokens: int) -> Work:
    turn = Turn([5, 6, 7] if arguments.backend != "openai-chat" else "hello", 0, tokens)
    return Work(
        url=url, path=PATHS[arguments.backend], headers={}, backend=arguments.backend, model="lightllm-demo",
        sampling={"ignore_eos": True}, max_concurrency=None, numbers=list(range(arguments.streams)),
        due=[0.0] * arguments.streams, conversations=[[turn]] * arguments.streams, keeps_text=False,
    )  # fmt: skip


def measure(arguments: argparse.Namespace) -> None:
    def command(process: str) -> list[str]:
        if process == "worker":
            return [sys.executable, "-m", "benchmarks.instant_worker", str(arguments.step_ms)]
        return python_module(process)

    flags = {"port": 0, "httpserver_workers": arguments.api_processes, "running_max_req_size": arguments.streams}
    flags |= {"model_dir": str(MODEL_DIR), "model_name": "lightllm-demo", "disable_log_stats": True}
    supervisor = Supervisor(parse(ServerConfig, flags), command=command)
    url = f"http://127.0.0.1:{supervisor.config.port}"
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        clients.run([work(arguments, url, 8)], num_requests=0, bar=False, title="")
        before = {name: cpu_seconds(pid) for name, pid in children().items()}
        began = time.perf_counter()
        measured = clients.run([work(arguments, url, arguments.tokens)], num_requests=0, bar=False, title="")
        took = time.perf_counter() - began
        spent = {name: cpu_seconds(pid) - before[name] for name, pid in children().items() if name in before}
    finally:
        supervisor.stop()
        thread.join()
    found = figures.totals(measured.outcomes, {})
    assert found["completed"] == arguments.streams, found["most_common_errors"]
    tokens = found["total_output_tokens"]
    print(
        f"reached {found['output_throughput']:,.0f} tokens/s in {took:.1f} s, {found['tokens_per_event']:.2f} an event;"
    )
    print(f"the client was busy for {measured.cpu_share:.0%}")
    print("| process | us a token | of it in the kernel | tokens/s with a core of its own |\n| --- | --- | --- | --- |")
    for name, (own, kernel) in sorted(spent.items()):
        cost = 1e6 * (own + kernel) / tokens
        alone = f"{1e6 / cost:,.0f}" if cost else "too little was counted"
        print(f"| {name} | {cost:.1f} | {1e6 * kernel / tokens:.1f} | {alone} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256, help="of each stream")
    parser.add_argument("--step-ms", type=float, default=50.0)
    parser.add_argument("--api-processes", type=int, default=1)
    parser.add_argument("--backend", choices=list(PATHS), default="openai")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()
