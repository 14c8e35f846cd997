"""The engine of the offline API: supervised by a thread of the user's own process, which is its only client."""

import contextlib
import os
import threading

from lightllm.base.config import ServerConfig
from lightllm.base.errors import Closed, EngineDeadError, RequestError
from lightllm.base.messages import Connect, EngineLost, Ready
from lightllm.base.request import SamplingParams
from lightllm.base.status import State
from lightllm.processes.ipc.channels import Channel, wait_for
from lightllm.processes.ipc.child import receive_start
from lightllm.processes.supervisor import Supervisor
from lightllm.serving.api.service import Service
from lightllm.serving.records import Request

_PEERS = ("scheduler", "detokenizer", "grammar")
_LOOK_EVERY_S = 0.01
_END_WITHIN_S = 10.0


class OfflineEngine:
    """Processes that are ready for requests, until `close`. Not thread-safe."""

    def __init__(self, config: ServerConfig):
        """Returns when the model is loaded. Raises ConfigError, or EngineDeadError with what kept it from starting."""
        ours, theirs = Channel.pair()
        self._control = Channel(ours)
        self._cause: str | None = None  # why the engine is gone
        self._owner = os.getpid()
        self._resources = contextlib.ExitStack()
        self._resources.callback(theirs.close)
        self._resources.callback(self._control.close)
        with self._resources:
            self._supervisor = Supervisor(config, offline=theirs)
            self._thread = threading.Thread(target=self._supervise, name="lightllm-supervisor", daemon=True)
            self._thread.start()
            self._resources.callback(self._end)
            self._begin()
            self._resources = self._resources.pop_all()

    def _begin(self) -> None:
        try:
            me = receive_start(self._control)
        except Closed:
            raise self._dead() from None
        for name in ("requests", "status", "metrics"):
            self._resources.callback(os.close, me.descriptors[name])
        self._status = me.status
        self._channels = {name: me.channel(name) for name in _PEERS if name in me.descriptors}
        self._resources.callback(lambda: [channel.close() for channel in self._channels.values()])
        self.service = Service.load(
            me.start.config,
            table=me.table,
            client=me.start.index,
            status=me.status,
            metrics=me.metrics,
            scheduler=self._channels["scheduler"],
            detokenizer=self._channels["detokenizer"],
            grammar=self._channels.get("grammar"),
        )
        self._control.send(Ready())
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Waits for a start or restart that is under way. Raises EngineDeadError."""
        while self._status.state is not State.SERVING:
            wait_for([self._control], timeout_s=_LOOK_EVERY_S)
            with contextlib.suppress(EngineDeadError):  # of an earlier life; the supervisor's end raises below
                self._obey()
            if self._cause is not None:
                raise EngineDeadError(self._cause)
        with contextlib.suppress(EngineDeadError):
            self._obey()

    def wait(self) -> list[Request]:
        """Waits for something to read; returns the requests that have it. Raises EngineDeadError."""
        blocked = [channel for channel in self._channels.values() if channel.has_waiting]
        ready = wait_for([self._control, self._channels["detokenizer"]], blocked, awake_s=self._status.awake_s)
        try:
            for channel in blocked:
                channel.flush()
            return self.service.client.poll()
        except Closed:
            ready = wait_for([self._control])  # the supervisor says why
            return []
        finally:
            if self._control.fileno() in ready:
                self._obey()

    def check_grammar(self, params: SamplingParams) -> None:
        """Raises RequestError if no engine can enforce the grammar that the parameters hold, if any."""
        answers: list[RequestError | None] = []
        self.service.client.check(params, answers.append)
        while not answers:
            wait_for([self._control, self._channels["grammar"]])
            try:
                self.service.client.take_checks()
            except Closed:
                wait_for([self._control])  # the supervisor says what becomes of it
            self._obey()
        if answers[0] is not None:
            raise answers[0]

    def close(self) -> None:
        """Ends all processes. May be repeated."""
        if os.getpid() != self._owner:
            return  # a fork of the user's process: the engine is its parent's
        self._resources.close()

    def _end(self) -> None:
        self._supervisor.stop()
        self._thread.join(_END_WITHIN_S)

    def _supervise(self) -> None:
        try:
            self._supervisor.run()
            self._cause = "it was closed"
        except Exception as error:
            self._cause = str(error)

    def _dead(self) -> EngineDeadError:
        self._thread.join(_END_WITHIN_S)
        return EngineDeadError(self._cause or "the engine has ended")

    def _obey(self) -> None:
        """Does what the supervisor says. Raises EngineDeadError if it says that the engine is lost."""
        lost = None
        while True:
            try:
                message, descriptors = self._control.receive_with_descriptors()
            except Closed:
                raise self._dead() from None
            match message:
                case None:
                    break
                case EngineLost(reason):
                    self.service.client.engine_lost(reason)
                    lost = reason
                case Connect(name):
                    self._channels[name].close()
                    self._channels[name] = Channel.of_descriptor(descriptors[0])
                    self.service.client.reconnect(name, self._channels[name])
        if lost is not None:
            raise EngineDeadError(lost)
