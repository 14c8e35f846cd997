"""All processes of one server and what connects them: how they are started, introduced to one another, and ended."""

import socket
from collections.abc import Iterable

from lightllm.base.config import ServerConfig
from lightllm.base.messages import ClientLost, Connect, EngineLost, Start
from lightllm.processes.supervision.member import ChildProcess, Command, Member, end_all
from lightllm.processes.supervision.wiring import EngineParts, Segments, has_grammars

_END_WITHIN_S = 2.0


class Crew:
    """The engine (workers, scheduler, detokenizer, grammar) and its clients (api processes, or this process itself)."""

    def __init__(self, config: ServerConfig, segments: Segments, command: Command, door: socket.socket, archive: bytes):
        """`door` is the listening socket of the api processes or the control channel of the offline API.

        `archive` is the address of stored responses, if there is a place for them.
        """
        self._config, self._segments, self._command, self._door = config, segments, command, door
        self._archive = archive
        self.engine: dict[str, ChildProcess] = {}  # by the names that wires have
        self.clients: dict[int, Member] = {}
        self._parts: EngineParts | None = None
        self.is_scheduled = False  # whether the scheduler knows what it is to do

    @property
    def members(self) -> list[Member]:
        return [*self.engine.values(), *self.clients.values()]

    @property
    def children(self) -> list[ChildProcess]:
        return [member for member in self.members if isinstance(member, ChildProcess)]

    @property
    def workers(self) -> list[ChildProcess]:
        return [self.engine[f"worker:{rank}"] for rank in range(self._config.tp)]

    @property
    def missing_clients(self) -> list[int]:
        return [client for client in range(self._segments.shape.clients) if client not in self.clients]

    # ---- starting ----

    def start_engine(self) -> None:
        """Starts the engine's processes; the scheduler only loads until `start_scheduler`."""
        self._parts = EngineParts.create(self._config, clients=self._segments.shape.clients)
        self.is_scheduled = False
        for rank in range(self._config.tp):
            self.engine[f"worker:{rank}"] = self._spawn("worker", rank)
        for process in ("scheduler", "detokenizer"):
            self.engine[process] = self._spawn(process, 0)
        for rank in range(self._config.tp):
            store = {"store": self._parts.store} if rank == 0 and self._parts.store else {}
            masks = self._parts.mask_memory if rank == 0 else {}
            self._introduce(f"worker:{rank}", self.workers[rank], {**self._parts.rings, **masks, **_fds(store)})
        self._introduce("detokenizer", self.engine["detokenizer"])
        if has_grammars(self._config):
            self._start_grammar()

    def start_scheduler(self, pool_tokens: int) -> None:
        self.is_scheduled = True
        self._introduce("scheduler", self.engine["scheduler"], self._running.rings, pool_tokens)

    def start_client(self, client: int) -> None:
        """Starts a client and, if the engine knew an earlier one in its place, connects them."""
        name = f"client:{client}"
        if not self._running.wires.ends.get(name):
            self._running.wires.connect_client(client)
            self._tell("detokenizer", name)
            if self.is_scheduled:
                self._tell("scheduler", name)
            if "grammar" in self.engine:
                self._running.wires.connect("grammar", name)
                self._tell("grammar", name)
        if self._door.family == socket.AF_UNIX:
            self.clients[client] = Member("client", client, self._door)
            self._introduce(name, self.clients[client])
        else:
            self.clients[client] = self._spawn("api", client)
            self._introduce(name, self.clients[client], {"listener": self._door.fileno()})

    def _start_grammar(self) -> None:
        self.engine["grammar"] = self._spawn("grammar", 0)
        self._introduce("grammar", self.engine["grammar"], self._running.mask_memory)

    # ---- changes ----

    def restart_grammar(self) -> None:
        """The process has ended; another one takes its place."""
        end_all([self.engine.pop("grammar")], within_s=_END_WITHIN_S)
        self._running.wires.connect_grammar(self._segments.shape.clients)
        self._start_grammar()
        self._tell("worker:0", "grammar")
        for number, client in self.clients.items():
            with self._running.wires.taken(f"client:{number}", "grammar") as ends:
                client.send(Connect("grammar"), [ends["grammar"].fileno()])

    def forget_client(self, client: int) -> None:
        """A client has ended: its requests are to be ended too. The scheduler says when that is done."""
        member = self.clients.pop(client)
        end_all([member], within_s=_END_WITHIN_S)
        self.engine["scheduler"].send(ClientLost(client))

    def tell_clients_of_loss(self, reason: str) -> None:
        for client in self.clients.values():
            client.send(EngineLost(reason))

    def connect_clients(self) -> None:
        """Hands the clients their ends to an engine that was started again."""
        for number, client in self.clients.items():
            with self._running.wires.taken(f"client:{number}") as ends:
                for process, end in ends.items():
                    client.send(Connect(process), [end.fileno()])

    # ---- ending ----

    def end_engine(self) -> None:
        self._end(self.engine.values())
        self.engine.clear()

    def end(self) -> None:
        self._end(self.members)
        self.engine.clear()
        self.clients.clear()

    def _end(self, members: Iterable[Member]) -> None:
        end_all(members, within_s=_END_WITHIN_S)
        if self._parts is not None:
            self._parts.close()
            self._parts = None

    # ---- how ----

    @property
    def _running(self) -> EngineParts:
        assert self._parts is not None, "the engine was started"
        return self._parts

    def _spawn(self, process: str, index: int) -> ChildProcess:
        return ChildProcess(process, index, self._command(process))

    def _introduce(self, name: str, member: Member, also: dict[str, int] | None = None, pool_tokens: int = 0) -> None:
        """Sends Start: who it is, and the descriptors of all it shares."""
        with self._running.wires.taken(name) as ends:
            descriptors = {**self._segments.descriptors, **(also or {}), **_fds(ends)}
            start = Start(
                config=self._config,
                shape=self._segments.shape,
                index=member.index,
                descriptors=list(descriptors),
                pool_tokens=pool_tokens,
                metrics_block=self._metrics_block(member),
                archive=self._archive,
                vocab=self._running.vocab,
                store_port=self._running.store_port,
            )
            member.send(start, list(descriptors.values()))

    def _metrics_block(self, member: Member) -> int:
        tp = self._config.tp
        # Clients are last: what each of them has of its own is found there (base/metrics).
        first = {"scheduler": 0, "detokenizer": 1, "grammar": 2, "worker": 3, "api": 3 + tp, "client": 3 + tp}
        return first[member.process] + member.index

    def _tell(self, process: str, name: str) -> None:
        """Hands a process of the engine its end to somebody who has come anew."""
        with self._running.wires.taken(process, name) as ends:
            self.engine[process].send(Connect(name), [ends[name].fileno()])


def _fds(sockets: dict[str, socket.socket]) -> dict[str, int]:
    return {name: end.fileno() for name, end in sockets.items()}
