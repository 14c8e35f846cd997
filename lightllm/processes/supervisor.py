"""The process that starts the others, watches them, and answers for their ends.

`lightllm serve` is this process; the offline API runs it on a thread and is its only client.
"""

import contextlib
import os
import socket
from functools import partial

import msgspec

from lightllm.base import log
from lightllm.base.config import ServerConfig
from lightllm.base.errors import Closed, EngineDeadError
from lightllm.base.messages import AnyMessage, ClientForgotten, Drain, Failed, Loading, Ready
from lightllm.base.status import State, Status
from lightllm.processes.supervision import display
from lightllm.processes.supervision.checkpoint import resolve
from lightllm.processes.supervision.crew import Crew
from lightllm.processes.supervision.loop import Loop
from lightllm.processes.supervision.member import ChildProcess, Command, Member, python_module
from lightllm.processes.supervision.security import secured
from lightllm.processes.supervision.wiring import Segments, listen, stored_responses, table_shape

_log = log.get(__name__)
# A death drags others along; which came first is judged when all of them are known.
_JUDGE_AFTER_S = 0.2
# After a failure clients live on for so long: they deliver the errors, and health checks see that it is over.
_FAREWELL_S = 2.0
# What api processes may take, when a drain's time is up, to end what is left.
_DRAIN_MARGIN_S = 3.0


class Supervisor:
    """Runs a server, or the engine of the offline API, from start to end."""

    def __init__(self, config: ServerConfig, *, offline: socket.socket | None = None, command: Command = python_module):
        """Refuses what can be refused before anything starts: raises ConfigError.

        `offline` is this side's end of a control channel to the only client there is, the offline API.
        """
        config = resolve(config if offline else secured(config))
        door = offline or listen(config.host, config.port)
        if offline is None:
            config = msgspec.structs.replace(config, port=door.getsockname()[1])
        self.config = config
        clients = 1 if offline else config.httpserver_workers
        self._segments = Segments.create(table_shape(config, clients=clients), processes=3 + config.tp + clients)
        self._status = Status(self._segments.status)
        self._archive = None if offline else stored_responses(config)
        self._crew = Crew(config, self._segments, command, door, self._archive.address if self._archive else b"")
        self._door = door
        self._loop = Loop()
        self._orders, self._orders_in = socket.socketpair()
        self._progress = display.LoadingProgress(config.tp)
        self._watched: set[Member] = set()
        self._casualties: list[ChildProcess] = []
        self._is_starting = True  # some process is not ready yet, at first or after a restart
        self._is_draining = False
        self._cause = ""

    def run(self) -> None:
        """Returns when it was told to end; raises EngineDeadError, with the cause, when it could not go on."""
        try:
            self._loop.when_readable(self._orders, self._obey)
            if self._archive is not None:
                self._archive.start()
            self._start_engine()
            display.show_processes(os.getpid(), self._crew.children)
            if self._is_server:
                display.show_formats(self.config)
            self._loop.run()
        finally:
            self._end()
        if self._cause:
            raise EngineDeadError(self._cause)

    @property
    def _is_server(self) -> bool:
        """Whether there is a door for others than the offline API."""
        return self._door.family != socket.AF_UNIX

    def drain(self) -> None:
        """Ends it when open requests have finished. From any thread or signal handler."""
        self._order(b"d")

    def stop(self) -> None:
        """Ends it at once. From any thread or signal handler."""
        self._order(b"s")

    def _order(self, what: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended already
            self._orders_in.send(what)

    def _obey(self) -> None:
        if b"s" in self._orders.recv(64) or self._is_draining or self._status.state is not State.SERVING:
            self._loop.end()
        else:
            self._drain()

    # ---- members report ----

    def _watch(self) -> None:
        """Waits for whoever has joined."""
        for member in set(self._crew.members) - self._watched:
            self._loop.when_readable(member.control, partial(self._receive, member))
            if isinstance(member, ChildProcess):
                self._loop.when_readable(member.exit, partial(self._ended, member))
            self._watched.add(member)

    def _unwatch(self, member: Member) -> None:
        self._watched.discard(member)
        self._loop.forget(member.control)
        if isinstance(member, ChildProcess):
            self._loop.forget(member.exit)

    def _receive(self, member: Member) -> None:
        try:
            while (message := member.control.receive()) is not None:
                self._take(member, message)
        except Closed:
            self._loop.forget(member.control)
            if not isinstance(member, ChildProcess):
                self._loop.end()  # the offline API is gone

    def _take(self, member: Member, message: AnyMessage) -> None:
        match message:
            case Loading(done, total):
                self._progress.update(member.index, done, total)
            case Ready():
                member.ready = message
                self._proceed()
            case ClientForgotten(client):
                if not self._is_draining:
                    self._crew.start_client(client)
                    self._watch()
            case Failed(reason):
                member.failure = reason
                self._lost(member)
            case _:
                raise AssertionError(f"nobody sends {type(message).__name__} to the supervisor")

    def _ended(self, child: ChildProcess) -> None:
        self._loop.forget(child.exit)
        self._receive(child)  # its last words
        self._lost(child)

    # ---- starting ----

    def _start_engine(self) -> None:
        self._is_starting = True
        self._crew.start_engine()
        for client in self._crew.missing_clients:
            self._crew.start_client(client)
        self._watch()

    def _proceed(self) -> None:
        """Takes the next step of the start, if the last one is done."""
        if not self._is_starting:
            return
        tokens = [worker.ready.pool_tokens for worker in self._crew.workers if worker.ready]
        if len(tokens) == self.config.tp and not self._crew.is_scheduled:
            self._progress.close()
            self._crew.start_scheduler(min(tokens))
        if all(member.ready for member in self._crew.members):
            self._is_starting = False
            self._status.state = State.SERVING
            self._announce(min(tokens))

    def _announce(self, pool_tokens: int) -> None:
        memory = self._crew.workers[0].ready
        assert memory is not None, "all members are ready"
        display.show_memory(self.config, pool_tokens, memory.memory)
        if self._is_server:
            display.show_address(self.config)

    # ---- ending ----

    def _lost(self, member: Member) -> None:
        if member in self._casualties or member not in self._watched:
            return
        assert isinstance(member, ChildProcess), "the offline API's end is the end of all"
        if member.process in ("api", "grammar") and member.ready and not self._is_starting:
            self._lost_one(member)
            return
        self._casualties.append(member)
        self._status.state = State.FAILED
        if len(self._casualties) == 1:
            self._loop.after(_JUDGE_AFTER_S, self._judge)

    def _lost_one(self, member: ChildProcess) -> None:
        """A process without which the others go on."""
        self._unwatch(member)
        if member.process == "api":
            self._lost_api(member)
        else:
            _log.error("%s; it is started again", member.cause)
            self._crew.restart_grammar()
            self._watch()

    def _lost_api(self, member: ChildProcess) -> None:
        if not self._is_draining and not self._cause:
            _log.error("%s; its requests are lost, and it is started again", member.cause)
        self._crew.forget_client(member.index)
        if self._is_draining and not self._crew.clients:
            self._loop.end()

    def _judge(self) -> None:
        """Finds who is to blame for a failure, and goes on as the configuration says."""
        self._cause = max(self._casualties, key=lambda child: child.severity).cause
        if self._is_starting:
            self._loop.end()
            return
        _log.error("%s", self._cause)
        self._crew.tell_clients_of_loss(self._cause)
        is_of_engine = all(child in self._crew.engine.values() for child in self._casualties)
        if self.config.on_failure == "restart" and is_of_engine and not self._is_draining:
            self._restart_engine()
        else:
            self._loop.after(_FAREWELL_S, self._loop.end)

    def _restart_engine(self) -> None:
        for child in self._crew.engine.values():
            self._unwatch(child)
        self._crew.end_engine()
        self._casualties.clear()
        self._cause = ""
        self._status.restarts += 1
        self._progress = display.LoadingProgress(self.config.tp)
        self._start_engine()
        self._crew.connect_clients()

    def _drain(self) -> None:
        self._is_draining = True
        self._status.state = State.DRAINING
        for client in self._crew.clients.values():
            client.send(Drain(self.config.graceful_timeout_s))
        self._loop.after(self.config.graceful_timeout_s + _DRAIN_MARGIN_S, self._loop.end)

    def _end(self) -> None:
        self._progress.close()
        for member in list(self._watched):
            self._unwatch(member)
        self._crew.end()
        self._loop.close()
        if self._archive is not None:
            self._archive.close()
        for end in (self._door, self._orders, self._orders_in):
            end.close()
        self._segments.close()
