"""Everything that processes say to one another over sockets. References to requests are (index, generation).

Per-step messages carry references as bytes, [n, 2] uint32, so that their cost does not grow with the batch.
"""

import msgspec
import numpy as np

from lightllm.base.config import ServerConfig
from lightllm.base.request_table import TableShape

Reference = tuple[int, int]


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all messages."""


# Requests: client -> scheduler.


class Requests(Message, frozen=True):
    """Submits new requests and releases records. Releasing a request that still runs ends it."""

    submit: list[Reference] = []
    release: list[Reference] = []


# Output: scheduler -> detokenizer -> client, and back where a stop string was found.


class Progress(Message, frozen=True):
    """Scheduler to detokenizer: requests that came; that have new output or have ended; whose records were released."""

    opened: bytes = b""
    progressed: bytes = b""
    released: bytes = b""


class TextReady(Message, frozen=True):
    """Detokenizer to client: these requests have new text or have ended."""

    references: bytes


class Stopped(Message, frozen=True):
    """Detokenizer to scheduler: a stop string ended these requests."""

    references: list[Reference]


# Steps: scheduler and workers. The plans and results themselves lie in rings.


class PlanReady(Message, frozen=True):
    """Scheduler to worker: a plan was written to the ring of plans, or is about to be."""


class ResultReady(Message, frozen=True):
    """Worker of rank 0 to scheduler: a result was written to the ring of results."""


# Grammars: clients and the worker of rank 0 with the process `grammar`.


class Compile(Message, frozen=True):
    """Client to grammar: can this be enforced? The grammar lies in the client's pages. Answered with Compiled."""

    number: int
    page: int
    size: int


class Compiled(Message, frozen=True):
    """Grammar to client: it can, or why not."""

    number: int
    refusal: str = ""
    is_ours: bool = False  # the refusal is no fault of the grammar's


class MaskOrders(Message, frozen=True):
    """Worker to grammar: masks wanted, [n] of base.masks.ORDER."""

    orders: bytes


class MasksReady(Message, frozen=True):
    """Grammar to worker: some orders are answered."""


# Control: supervisor and child.


class Start(Message, frozen=True):
    """Supervisor to child: who you are. Descriptors come with it, named in order."""

    config: ServerConfig
    shape: TableShape
    index: int  # which api process, or which rank
    descriptors: list[str]
    pool_tokens: int = 0  # scheduler only: slots of the KV pool
    metrics_block: int = 0  # which block of the metrics is this process's to write
    archive: bytes = b""  # client only: address of the socket behind which stored responses are; empty: there is none
    vocab: int = 0  # token ids that the model knows
    store_port: int = 0  # worker only: where rank 0 serves the store through which ranks find one another


class Connect(Message, frozen=True):
    """Supervisor to child: this process was started again; its socket comes with it."""

    name: str


class ClientLost(Message, frozen=True):
    """Supervisor to scheduler: this client is gone, end its requests. Answered with ClientForgotten."""

    client: int


class ClientForgotten(Message, frozen=True):
    """Scheduler to supervisor: nothing of this client is left in the engine."""

    client: int


class EngineLost(Message, frozen=True):
    """Supervisor to client: the engine died with this reason; end all open requests with it."""

    reason: str


class Drain(Message, frozen=True):
    """Supervisor to client: take no new requests, finish the open ones within `seconds`, then end."""

    seconds: float


class Loading(Message, frozen=True):
    """Worker to supervisor: bytes of weights on the device so far."""

    done: int
    total: int


class Ready(Message, frozen=True):
    """Child to supervisor: ready to work."""

    pool_tokens: int = 0  # worker only: slots this rank has room for
    memory: list[tuple[str, int]] = []  # worker only: what the device's memory is used for, bytes


class Failed(Message, frozen=True):
    """Child to supervisor: cannot go on, for this reason. The child ends after it."""

    reason: str


# Profiling: client -> scheduler -> all workers, and back.


class Profile(Message, frozen=True):
    """Start a trace, or stop it and write it. Each that is told answers with Profiled, the scheduler for all ranks."""

    starts: bool


class Profiled(Message, frozen=True):
    """Done, or why not. files: the traces that were written."""

    files: list[str] = []
    failure: str = ""


# The prefix cache: client -> scheduler, and back.


class Flush(Message, frozen=True):
    """Forget all prefixes that no running request uses. Answered with Flushed."""


class Flushed(Message, frozen=True):
    """That many tokens were forgotten."""

    tokens: int


AnyMessage = (
    Requests | Progress | TextReady | Stopped | PlanReady | ResultReady | Start | Connect | ClientLost | ClientForgotten
    | EngineLost | Drain | Loading | Ready | Failed | Profile | Profiled | Compile | Compiled | MaskOrders | MasksReady
    | Flush | Flushed
)  # fmt: skip


def references(indexes: np.ndarray, generations: np.ndarray) -> bytes:
    """indexes, generations [n] -> the bytes that messages carry."""
    pairs = np.empty((len(indexes), 2), dtype=np.uint32)
    pairs[:, 0], pairs[:, 1] = indexes, generations
    return pairs.tobytes()


def distinct(references: np.ndarray) -> np.ndarray:
    """Each of the references [n, 2] once, in ascending order."""
    whole = np.sort(references.view(np.uint64)[:, 0])
    is_other = np.ones(len(whole), np.bool_)
    np.not_equal(whole[1:], whole[:-1], out=is_other[1:])
    return whole[is_other].view(np.uint32).reshape(-1, 2)


def parse_references(data: bytes) -> np.ndarray:
    """The bytes that messages carry -> [n, 2] uint32: index, generation."""
    return np.frombuffer(data, dtype=np.uint32).reshape(-1, 2)
