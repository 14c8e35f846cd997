"""What goes wrong hurts as few as possible, says so, and leaves nothing behind."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import httpx
import pytest
from openai import AsyncOpenAI

from tests.end_to_end.serving import Server, eventually, is_alive, kill, shared_segments
from tests.end_to_end.workload import MODEL

SMALL = ["--max_total_token_num", "20000"]
ENDLESS = {"model": MODEL, "prompt": "1 2 3", "ignore_eos": True, "stream": True, "max_tokens": 4000}


def health(server: Server) -> int:
    try:
        with urlopen(server.url + "/health", timeout=5) as response:
            return response.status
    except HTTPError as error:
        return error.code
    except OSError:
        return 0  # nobody listens any more


async def stream_to_the_end(server: Server, **changes) -> list[dict]:
    """Everything the server sends for ENDLESS, parsed."""
    events = []
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", server.url + "/v1/completions", json=ENDLESS | changes) as response,
    ):
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                events.append(json.loads(line[6:]))
    return events


@pytest.mark.parametrize("victim", ["scheduler", "worker", "detokenizer"])
def test_a_dead_child_ends_open_requests_with_an_error_and_the_server_too(victim):
    async def kill_midway(server: Server) -> list[dict]:
        task = asyncio.create_task(stream_to_the_end(server))
        await asyncio.sleep(0.5)
        kill(server.children()[victim][0])
        return await asyncio.wait_for(task, 10)

    with Server(*SMALL) as server:
        events = asyncio.run(kill_midway(server))
        assert "error" in events[-1]
        assert eventually(lambda: health(server) in (0, 503), timeout_s=2)
        assert server.process.wait(10) != 0


def test_a_dead_worker_is_replaced_where_asked():
    with Server(*SMALL, "--on_failure", "restart") as server:
        kill(server.children()["worker"][0])
        assert eventually(lambda: health(server) == 503, timeout_s=2)
        assert eventually(lambda: health(server) == 200, timeout_s=60)
        events = asyncio.run(stream_to_the_end(server, max_tokens=5))
        assert "error" not in events[-1]


def test_a_dead_api_process_is_replaced_and_its_requests_are_ended():
    with Server(*SMALL) as server:
        before = server.children()["api"]

        async def kill_midway() -> None:
            task = asyncio.create_task(stream_to_the_end(server))
            await asyncio.sleep(0.5)
            kill(before[0])
            with pytest.raises(httpx.HTTPError):
                await asyncio.wait_for(task, 10)

        asyncio.run(kill_midway())
        assert eventually(lambda: server.children().get("api", before) != before, timeout_s=10)
        assert eventually(lambda: health(server) == 200, timeout_s=60)
        assert eventually(lambda: server.metric("kv_slots_used") == 0)
        assert "error" not in asyncio.run(stream_to_the_end(server, max_tokens=5))[-1]


def test_fifty_streams_are_drained_untruncated():
    async def drain(server: Server) -> list[list[dict]]:
        tasks = [asyncio.create_task(stream_to_the_end(server, max_tokens=60 + i)) for i in range(50)]
        while server.metric("batch_current_size") < 50:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        return await asyncio.gather(*tasks)

    with Server(*SMALL) as server:
        answers = asyncio.run(drain(server))
        assert all(events[-1]["choices"][0]["finish_reason"] == "length" for events in answers)
        assert server.process.wait(20) == 0


def test_a_client_that_leaves_frees_its_slots():
    with Server(*SMALL) as server:

        async def leave() -> None:
            async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as client:
                stream = await client.completions.create(
                    model=MODEL, prompt="1 2 3", max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
                )
                async for _ in stream:
                    break
                await stream.close()

        asyncio.run(leave())
        assert eventually(lambda: server.metric("batch_current_size") == 0, timeout_s=2)
        assert server.metric("kv_slots_used") == 0


def test_a_client_that_stops_reading_delays_nobody():
    with Server(*SMALL) as server:
        address = server.url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps(ENDLESS).encode()
            stalled.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
            stalled.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            time.sleep(1)
            events = asyncio.run(asyncio.wait_for(stream_to_the_end(server, max_tokens=50), 20))
            assert events[-1]["choices"][0]["finish_reason"] == "length"


def test_children_end_when_the_supervisor_is_killed():
    segments = shared_segments()
    server = Server(*SMALL)
    children = [pid for pids in server.children().values() for pid in pids]
    server.end(signal.SIGKILL)
    assert eventually(lambda: not any(map(is_alive, children)), timeout_s=10)
    assert shared_segments() == segments


def failed_start(*arguments: str) -> tuple[int, str, float]:
    """Exit code, last line and seconds of a start that fails."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "lightllm", "serve", *arguments], capture_output=True, text=True, timeout=60
    )
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode, lines[-1], time.monotonic() - began


def test_an_occupied_port_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, line, _ = failed_start("--port", port)
    assert code != 0
    assert port in line


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "config.json").write_text('{"hidden_size": '), "config.json"),
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
        (lambda folder: _drop_tensor(folder, "model.norm.weight"), "model.norm.weight"),
    ],
    ids=["corrupt config", "no config", "no weights", "a missing weight"],
)
def test_a_broken_checkpoint_is_one_clear_line(tmp_path, damage, named):
    _copy_model(tmp_path)
    damage(tmp_path)
    code, line, _ = failed_start(str(tmp_path), "--port", "0")
    assert code != 0
    assert named in line


def test_an_unknown_flag_is_one_clear_line():
    code, line, _ = failed_start("--max_total_tokens", "5")
    assert code != 0
    assert "max_total_token" in line


BAD_BODIES = {
    "malformed": b'{"model": ',
    "wrong type": json.dumps({"model": MODEL, "prompt": 5}).encode(),
    "not a number": b'{"model": "lightllm-demo", "prompt": "a", "temperature": NaN}',
    "huge number": b'{"model": "lightllm-demo", "prompt": "a", "max_tokens": 1e400}',
    "huge integer": b'{"model": "lightllm-demo", "prompt": "a", "seed": %s}' % (b"9" * 400),
    "invalid UTF-8": b'{"model": "lightllm-demo", "prompt": "\xff\xfe"}',
    "lone surrogate": b'{"model": "lightllm-demo", "prompt": "\\ud800"}',
    "empty prompt": json.dumps({"model": MODEL, "prompt": ""}).encode(),
    "empty list": json.dumps({"model": MODEL, "prompt": []}).encode(),
    "over-long prompt": json.dumps({"model": MODEL, "prompt": "word " * 50_000}).encode(),
    "token out of vocabulary": json.dumps({"model": MODEL, "prompt": [10**6]}).encode(),
    "negative token": json.dumps({"model": MODEL, "prompt": [-1]}).encode(),
    "deep nesting": b"[" * 100_000,
    "unknown model": json.dumps({"model": "nope", "prompt": "a"}).encode(),
}


@pytest.fixture(scope="module")
def steady():
    with Server(*SMALL) as server:
        yield server


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_input_is_refused_and_the_server_goes_on(steady, body):
    request = Request(steady.url + "/v1/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(HTTPError) as caught:
        urlopen(request, timeout=20)
    with caught.value as response:
        assert 400 <= response.code < 500
        message = json.load(response)["error"]["message"]
    assert 10 < len(message) < 2000
    assert health(steady) == 200


def _copy_model(folder) -> None:
    import shutil

    from lightllm.demo import MODEL_DIR

    shutil.copytree(MODEL_DIR, folder, dirs_exist_ok=True)


def _drop_tensor(folder, name: str) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
