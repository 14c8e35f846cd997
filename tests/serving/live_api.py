"""An api process in a thread: the real `Api` on a loopback port, before a fake engine."""

import asyncio
import socket
import threading
from pathlib import Path
from typing import Any

import uvloop
from openai import OpenAI

from lightllm.base import config
from lightllm.base.messages import Connect, Drain, EngineLost, Message, Ready, Start
from lightllm.base.metrics import Metrics
from lightllm.base.request_table import TableShape
from lightllm.base.shared_memory import SharedMemory
from lightllm.processes.api import Api
from lightllm.processes.ipc.channels import Channel
from lightllm.processes.ipc.child import Child
from lightllm.serving.archive.server import ArchiveServer
from tests.serving.fake_engine import FakeEngine, Script
from tests.serving.text.tokenizers_for_tests import byte_level

MODEL = "test-model"


def client_of(live: "LiveApi") -> OpenAI:
    return OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0, timeout=20)


class LiveApi:
    """`url` serves as soon as the object is made. Flags are ServerConfig's."""

    def __init__(
        self,
        model_dir: Path,
        script: Script,
        *,
        records: int = 256,
        clients: int = 1,
        engine: dict[str, Any] | None = None,
        **flags,
    ):
        settings = config.parse(
            config.ServerConfig, {"model_dir": str(model_dir), "model_name": MODEL, "max_req_total_len": 4096} | flags
        )
        self.engine = FakeEngine(
            byte_level(), script, TableShape.of(clients=clients, records=records, max_length=4096), **(engine or {})
        )
        self._metrics_memory = Metrics.create(2)
        self.metrics = Metrics(self._metrics_memory, 0)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        mine, theirs = Channel.pair()
        self.control = Channel(mine)
        self.archive = ArchiveServer(
            most=settings.stored_responses,
            most_bytes=settings.stored_response_bytes,
            keep_s=settings.stored_response_s,
        )
        self.archive.start()
        start = Start(settings, self.engine.shape, 0, [], archive=self.archive.address)
        descriptors = {
            "scheduler": self.engine.scheduler.detach(),
            "detokenizer": self.engine.detokenizer.detach(),
            "grammar": self.engine.grammar.detach(),
            "listener": listener.detach(),
        }
        self._me = Child(
            control=Channel(theirs),
            start=start,
            descriptors=descriptors,
            table=self.engine.table,
            status=self.engine.status,
            metrics=Metrics(SharedMemory(self._metrics_memory.fd), 1),
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert isinstance(self.receive(), Ready)

    def _run(self) -> None:
        try:
            api = Api(self._me)
            self.service = api._service
            uvloop.run(api.run())
        except BaseException as error:
            self.error = error

    def receive(self, timeout_s: float = 10) -> Message:
        """What the api process tells the supervisor next."""

        async def wait() -> Message:
            while (message := self.control.receive()) is None:
                if self.error is not None:
                    raise self.error
                await asyncio.sleep(0.005)
            return message

        return asyncio.run(asyncio.wait_for(wait(), timeout_s))

    def lose_engine(self, reason: str) -> None:
        self.engine.end()
        self.control.send(EngineLost(reason))

    def restart_engine(self) -> None:
        self.engine.connect()
        for name in ("scheduler", "detokenizer", "grammar"):
            end = getattr(self.engine, name)
            self.control.send(Connect(name), [end.fileno()])
            end.close()

    def drain(self, seconds: float) -> None:
        self.control.send(Drain(seconds))

    def join(self, timeout_s: float = 10) -> bool:
        """Whether the process has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Ends it, whatever is open."""
        if self._thread.is_alive():
            self.drain(0)
            assert self.join(), "the api process ends when told to"
        self.engine.end()
        self.archive.close()
        self.control.close()
        self._me.control.close()
        for memory in (self.engine.table_memory, self.engine.status_memory, self._metrics_memory):
            memory.close()
        if self.error is not None:
            raise self.error
