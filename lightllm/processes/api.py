"""An api process: HTTP on the supervisor's listening socket, in front of one client of the engine."""

import asyncio
import gc
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from lightllm.base import log
from lightllm.base.errors import Closed
from lightllm.base.messages import Connect, Drain, EngineLost, Ready
from lightllm.processes.ipc import child
from lightllm.processes.ipc.channels import Channel
from lightllm.serving.api.app import create_app
from lightllm.serving.api.http_protocol import BoundedHttp
from lightllm.serving.api.service import Service

_PEERS = ("scheduler", "detokenizer", "grammar")
_TICK_S = 0.1
_KEEP_ALIVE_S = 75  # longer than the 60 s for which clients and balancers usually keep a connection
_log = log.get(__name__)


class _Server(uvicorn.Server):
    """Leaves signals alone: the supervisor decides when this process ends."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Api:
    """The channels of one api process and what to do when something arrives."""

    def __init__(self, me: child.Child):
        self._control = me.control
        self._channels = {name: me.channel(name) for name in _PEERS if name in me.descriptors}
        self._metrics = me.metrics
        self._service = Service.load(
            me.start.config,
            table=me.table,
            client=me.start.index,
            status=me.status,
            metrics=me.metrics,
            scheduler=self._channels["scheduler"],
            detokenizer=self._channels["detokenizer"],
            archive=me.start.archive,
            grammar=self._channels.get("grammar"),
        )
        self._client = self._service.client
        self._takes: dict[str, Callable[[], object]] = {
            "scheduler": self._client.take_answers,
            "detokenizer": self._client.poll,
            "grammar": self._client.take_checks,
        }
        self._listener = socket.socket(fileno=me.descriptors["listener"])
        self._server = _Server(
            uvicorn.Config(
                create_app(self._service),
                ssl_certfile=me.start.config.ssl_certfile or None,
                ssl_keyfile=me.start.config.ssl_keyfile or None,
                http=BoundedHttp,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        self._tasks = asyncio.TaskGroup()

    async def run(self) -> None:
        """Serves until drained. What fails beside the server ends it too."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._control.fileno(), self._obey)
        for name, channel in self._channels.items():
            loop.add_reader(channel.fileno(), self._take, name)
        # What was loaded stays for good: the collector need not look at it while tokens stream.
        gc.collect()
        gc.freeze()
        async with self._tasks:
            self._tasks.create_task(self._announce())
            ticking = self._tasks.create_task(self._tick())
            await self._server.serve(sockets=[self._listener])
            ticking.cancel()
        for channel in self._channels.values():
            channel.close()

    async def _announce(self) -> None:
        while not self._server.started:
            await asyncio.sleep(0.005)
        self._control.send(Ready())

    async def _tick(self) -> None:
        """Measures by how much the event loop is late, and sends again what sockets did not take."""
        while True:
            due = time.monotonic() + _TICK_S
            await asyncio.sleep(_TICK_S)
            lag = max(0.0, time.monotonic() - due)
            self._metrics.set("event_loop_lag", lag)
            self._metrics.observe("event_loop_lag_duration", lag)
            for channel in self._channels.values():
                try:
                    channel.flush()
                except Closed:
                    continue  # the supervisor tells, with the reason

    def _take(self, name: str) -> None:
        try:
            self._takes[name]()
        except Closed:
            asyncio.get_running_loop().remove_reader(self._channels[name].fileno())

    def _obey(self) -> None:
        try:
            while self._obeyed():
                pass
        except Closed:  # the supervisor wants an end, or is gone
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._server.should_exit = True

    def _obeyed(self) -> bool:
        """Does one thing the supervisor asks for. False if there is none."""
        message, descriptors = self._control.receive_with_descriptors()
        match message:
            case None:
                return False
            case EngineLost(reason):
                for channel in self._channels.values():
                    asyncio.get_running_loop().remove_reader(channel.fileno())
                self._client.engine_lost(reason)
            case Connect(name):
                self._connect(name, Channel.of_descriptor(descriptors[0]))
            case Drain(seconds):
                self._tasks.create_task(self._drain(seconds))
            case _:
                raise AssertionError(f"the supervisor sends no {type(message).__name__} to an api process")
        return True

    def _connect(self, name: str, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._channels[name].fileno())
        self._channels[name].close()
        self._channels[name] = channel
        self._client.reconnect(name, channel)
        loop.add_reader(channel.fileno(), self._take, name)

    async def _drain(self, seconds: float) -> None:
        """Lets open requests finish; what is not done in time ends with an error that says so."""
        self._client.refuse("the server is shutting down")
        deadline = time.monotonic() + seconds
        while self._client.open_requests and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if late := self._client.open_requests:
            _log.warning("%d requests were not done after %g s and end here", len(late), seconds)
            self._client.engine_lost("the server was shut down before this request was done")
        self._server.config.timeout_graceful_shutdown = 2
        self._server.should_exit = True


def main(me: child.Child) -> None:
    api = Api(me)
    uvloop.run(api.run())


if __name__ == "__main__":
    child.run("api", main)
