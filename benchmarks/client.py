"""How many streamed tokens a second the client of `lightllm bench serve` reads, and how busy that makes it.

    python -m benchmarks.client [--streams N] [--tokens N] [--rates N ...]

A server that does nothing but write sends a token to every stream at each tick, worded as /v1/completions words it.
Rates are tokens a second, of all streams together; 0: as fast as the client takes them.
"""

import argparse
import asyncio
import socket
import subprocess
import sys
import time

import uvloop

from lightllm.bench import clients
from lightllm.bench.datasets import Turn
from lightllm.bench.outcome import Work

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_TOKEN = (
    b'data: {"id":"cmpl-0123456789abcdef01234567","object":"text_completion","created":1790000000,"model":"model",'
    b'"choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null,"stop_reason":null}],"usage":null}\n\n'
)
_END = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":%d,"total_tokens":0}}\n\ndata: [DONE]\n\n'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _serve(listener: socket.socket, tokens: int, streams: int, rate: float) -> None:
    token, end = _chunk(_TOKEN), _chunk(_END % tokens) + b"0\r\n\r\n"
    open_streams: list[asyncio.StreamWriter] = []
    complete = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD)
        open_streams.append(writer)
        if len(open_streams) == streams:
            complete.set()

    async with await asyncio.start_server(answer, sock=listener, backlog=4096):
        await complete.wait()
        due = time.perf_counter()
        for _ in range(tokens):
            for writer in open_streams:
                writer.write(token)
            if rate:
                due += streams / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            else:
                await asyncio.gather(*(writer.drain() for writer in open_streams))
        for writer in open_streams:
            writer.write(end)
            await writer.drain()
        await asyncio.sleep(3600)


def measure(streams: int, tokens: int, rate: float) -> str:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    port = listener.getsockname()[1]
    arguments = [str(listener.fileno()), str(tokens), str(streams), str(rate)]
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.client", "--serve", *arguments], pass_fds=[listener.fileno()]
    )
    try:
        work = Work(
            url=f"http://127.0.0.1:{port}", path="/v1/completions", headers={}, backend="openai", model="model",
            sampling={}, max_concurrency=None, numbers=list(range(streams)), due=[0.0] * streams,
            conversations=[[Turn("a", 0, tokens)]] * streams, keeps_text=False,
        )  # fmt: skip
        measured = clients.run([work], num_requests=streams, bar=False, title="")
    finally:
        server.kill()
        server.wait()
        listener.close()
    times = sorted(time for outcome in measured.outcomes for time in outcome.times)
    assert len(times) == streams * tokens, [outcome.error for outcome in measured.outcomes if outcome.error]
    reached = len(times) / (times[-1] - times[0])
    return (
        f"| {f'{rate:,.0f}' if rate else 'as fast as it can'} | {reached:,.0f} | {measured.cpu_share:.0%} "
        f"| {1e3 * measured.lag_p99:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=256, help="of each stream")
    parser.add_argument("--rates", type=float, nargs="+", default=[6000, 12000, 24000, 0])
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        descriptor, tokens, streams, rate = arguments.serve
        uvloop.run(_serve(socket.socket(fileno=int(descriptor)), int(tokens), int(streams), float(rate)))
        return
    print("| tokens/s sent | read | of one core | p99 of the event loop's lag, ms |\n| --- | --- | --- | --- |")
    for rate in arguments.rates:
        print(measure(arguments.streams, arguments.tokens, rate), flush=True)


if __name__ == "__main__":
    main()
