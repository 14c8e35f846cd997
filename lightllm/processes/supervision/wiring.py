"""What processes share and how they are connected: shared memory, sockets, and who is handed which of them."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from lightllm.base.checkpoint_files import read_json, vocab_size
from lightllm.base.config import ServerConfig
from lightllm.base.errors import ConfigError
from lightllm.base.masks import MaskMemory
from lightllm.base.metrics import Metrics
from lightllm.base.request_table import RequestTable, TableShape
from lightllm.base.ring import Ring
from lightllm.base.shared_memory import SharedMemory
from lightllm.base.status import Status
from lightllm.base.task import Task
from lightllm.processes.ipc.channels import Channel
from lightllm.serving.archive.server import ArchiveServer
from lightllm.serving.scheduling.plan import StepLimits, plan_bytes, result_bytes

_BACKLOG = 2048
# The table has room for every record at this length, which bounds its size; single requests may be longer.
_TYPICAL_LENGTH = 32768
_MOST_PAGES = 1 << 22  # for output and for text; 16 GiB each, if all were touched


def table_shape(config: ServerConfig, *, clients: int) -> TableShape:
    """Room for as many requests as may run and wait, in each client's run of records."""
    records, longest = config.running_max_req_size + config.max_queued_requests, config.max_req_total_len
    assert longest is not None, "the config was resolved"
    # Few records must still hold some longest requests.
    typical = max(_TYPICAL_LENGTH, 8 * longest // records)
    shape = TableShape.of(clients=clients, records=records, max_length=min(longest, typical))
    return replace(
        shape,
        output_pages=min(shape.output_pages, _MOST_PAGES),
        text_pages=min(shape.text_pages, _MOST_PAGES),
    )


def has_grammars(config: ServerConfig) -> bool:
    """Whether there is a process `grammar`."""
    return config.output_constraint_mode != "none" and config.tokenizer_mode != "none"


def listen(host: str, port: int) -> socket.socket:
    """The HTTP server's socket. Raises ConfigError if the address cannot be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with contextlib.ExitStack() as on_error:
            listener = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            on_error.pop_all()
    except OSError as error:
        raise ConfigError(
            f"--host={host} --port={port} cannot be listened on: {error.strerror}; choose another port, or 0 for any"
        ) from None
    return listener


def stored_responses(config: ServerConfig) -> ArchiveServer:
    """The one place for responses that are kept, not yet started."""
    return ArchiveServer(
        most=config.stored_responses, most_bytes=config.stored_response_bytes, keep_s=config.stored_response_s
    )


@dataclass(frozen=True)
class Segments:
    """Shared memory that outlives a restart of the engine."""

    shape: TableShape
    requests: SharedMemory
    status: SharedMemory
    metrics: SharedMemory

    @classmethod
    def create(cls, shape: TableShape, *, processes: int) -> "Segments":
        return cls(shape, RequestTable.create(shape), Status.create(), Metrics.create(processes))

    @property
    def descriptors(self) -> dict[str, int]:
        return {"requests": self.requests.fd, "status": self.status.fd, "metrics": self.metrics.fd}

    def close(self) -> None:
        for memory in (self.requests, self.status, self.metrics):
            memory.close()


@dataclass
class Wires:
    """Sockets of one life of the engine. Each end waits here until its owner is started."""

    ends: dict[str, dict[str, socket.socket]] = field(default_factory=dict)  # owner -> peer's name -> end

    def connect(self, one: str, other: str) -> None:
        first, second = Channel.pair()
        self.ends.setdefault(one, {})[other] = first
        self.ends.setdefault(other, {})[one] = second

    def connect_grammar(self, clients: int) -> None:
        """The process `grammar` with the worker that samples and with all clients."""
        self.connect("grammar", "worker:0")
        for client in range(clients):
            self.connect("grammar", f"client:{client}")

    def connect_client(self, client: int) -> None:
        for process in ("scheduler", "detokenizer"):
            self.connect(process, f"client:{client}")

    @contextlib.contextmanager
    def taken(self, owner: str, *peers: str) -> Iterator[dict[str, socket.socket]]:
        """The ends of `owner` (towards these peers, or all): to be sent within the block, closed after it."""
        mine = self.ends.get(owner, {})
        ends = {peer: mine.pop(peer) for peer in (peers or tuple(mine))}
        try:
            yield ends
        finally:
            for end in ends.values():
                end.close()

    def close(self) -> None:
        for owner in self.ends:
            with self.taken(owner):
                pass


@dataclass(frozen=True)
class EngineParts:
    """What one life of the engine shares beyond the segments; a restarted engine gets new ones."""

    plans: SharedMemory
    results: SharedMemory
    wires: Wires
    store: socket.socket | None  # where the ranks find one another
    masks: SharedMemory | None  # of tokens that grammars allow
    vocab: int  # token ids that the model knows

    @classmethod
    def create(cls, config: ServerConfig, *, clients: int) -> "EngineParts":
        longest = config.max_req_total_len
        assert longest is not None, "the config was resolved"
        wires = Wires()
        wires.connect("scheduler", "detokenizer")
        for rank in range(config.tp):
            wires.connect("scheduler", f"worker:{rank}")
        for client in range(clients):
            wires.connect_client(client)
        masks, vocab = None, vocab_size(read_json(config.model_dir, "config.json", required=True))
        if has_grammars(config):
            wires.connect_grammar(clients)
            masks = MaskMemory.create(lines=StepLimits.of(config, longest).rows, vocab=vocab)
        return cls(
            Ring.create("plans", plan_bytes(config, longest)),
            Ring.create("results", result_bytes(config, longest, vector_width=Task.of(config).width)),
            wires,
            listen("127.0.0.1", 0) if config.tp > 1 else None,
            masks,
            vocab,
        )

    @property
    def mask_memory(self) -> dict[str, int]:
        """What the process `grammar` shares with the worker that samples; nothing if there is none."""
        return {} if self.masks is None else {"masks": self.masks.fd}

    @property
    def rings(self) -> dict[str, int]:
        return {"plans": self.plans.fd, "results": self.results.fd}

    @property
    def store_port(self) -> int:
        return self.store.getsockname()[1] if self.store else 0

    def close(self) -> None:
        self.wires.close()
        self.plans.close()
        self.results.close()
        if self.masks:
            self.masks.close()
        if self.store:
            self.store.close()
