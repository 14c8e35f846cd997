"""While a step runs, the next plan is made: with slow steps it is always there in time."""

import asyncio
import re
import sys
import threading
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import httpx
import pytest

from lightllm.base.config import ServerConfig
from lightllm.processes.supervision.member import python_module
from lightllm.processes.supervisor import Supervisor
from tests.end_to_end.serving import eventually
from tests.end_to_end.workload import MODEL

SLOW_WORKER = Path(__file__).parent / "slow_worker.py"
STREAMS, LENGTH = 8, 160


def command(process: str) -> list[str]:
    return [sys.executable, str(SLOW_WORKER)] if process == "worker" else python_module(process)


@pytest.fixture
def url():
    supervisor = Supervisor(ServerConfig(port=0, max_total_token_num=4000, log_level="error"), command=command)
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    address = f"http://127.0.0.1:{supervisor.config.port}"
    try:
        assert eventually(lambda: is_healthy(address), timeout_s=60)
        yield address
    finally:
        supervisor.stop()
        thread.join()


def is_healthy(address: str) -> bool:
    try:
        return urlopen(address + "/health", timeout=5).status == 200
    except URLError:
        return False


def test_the_next_plan_is_there_before_a_step_ends(url):
    async def stream_all() -> None:
        async with httpx.AsyncClient(timeout=120) as client:
            body = {"model": MODEL, "prompt": "1 2 3", "max_tokens": LENGTH, "ignore_eos": True}
            answers = await asyncio.gather(
                *(client.post(url + "/v1/completions", json=body | {"seed": i}) for i in range(STREAMS))
            )
        assert all(answer.json()["usage"]["completion_tokens"] == LENGTH for answer in answers)

    asyncio.run(stream_all())
    metrics = urlopen(url + "/metrics", timeout=5).read().decode()
    run, overlapped = (
        float(re.search(rf"^lightllm_{name}_total (\S+)$", metrics, re.MULTILINE)[1])
        for name in ("steps_run", "steps_overlapped")
    )
    assert run >= LENGTH
    # After the very last step there is nothing to plan.
    assert overlapped / run >= 0.99
