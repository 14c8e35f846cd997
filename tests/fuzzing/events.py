"""An episode: how a server is set up, and all that then happens to it, one event after another.

Events name requests by numbers that their `Ask` gave them, and do nothing where they make no sense. So any part of an
episode is an episode too, and one that fails can be shortened. What `repr` shows of it is Python that makes it again.
"""

import msgspec

from lightllm.base.beams import BeamOptions

DETOKENIZER, CONTROL, CLIENTS = 1, 2, 4  # of `Turn.hears`; client c is CLIENTS << c
EVERYBODY = 255
TICK_S = 0.01


class Settings(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """Of the engine, its clients and its worker."""

    pool_tokens: int = 64
    max_length: int = 48
    vocabulary: int = 8
    clients: int = 2
    records: int = 8  # of each client
    output_pages: int | None = None  # None: enough
    default_max_tokens: int = 8  # of requests that state none
    outstanding: int = 2  # plans that may be on their way
    ttft_target_s: float | None = None
    small_tokens: int = 0
    bans_stops: bool = True  # the worker samples no stop token before min_tokens
    has_small_constants: bool = False  # what is built in for large servers is reached by small ones
    gives_vectors: bool = False  # the model does not generate: whatever is asked for, an answer is a vector
    is_awaited: bool = True  # at the end of the episode clients wait for their answers; False: they leave
    config: dict[str, object] = {}  # of EngineConfig


class Event(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """Base of all events."""


class Ask(Event, frozen=True):
    """A client submits a prompt. `after` continues an earlier request: its prompt and its answer come first."""

    name: int
    prompt: tuple[int, ...] = (1,)
    client: int = 0
    n: int = 1
    max_tokens: int | None = 1
    min_tokens: int = 0
    stops: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    variant: int = 0  # how it samples
    after: int = -1
    priority: int = 0
    tenant: int = 0
    timeout_s: float | None = None
    beams: BeamOptions | None = None


class Release(Event, frozen=True):
    """A client is done with one sample, whether it has ended or not."""

    name: int
    sample: int = 0


class Stop(Event, frozen=True):
    """The detokenizer finds a stop string in the text of one sample."""

    name: int
    sample: int = 0


class Die(Event, frozen=True):
    """A client process dies, and another takes its place as soon as nothing of the old one is left."""

    client: int = 0


class Crash(Event, frozen=True):
    """A worker dies: the engine is started again, and clients are told that what was open is lost."""


class WrongResult(Event, frozen=True):
    """A result comes that is not due: the last one once more, or that of a later step."""

    is_early: bool = False


class Turn(Event, frozen=True):
    """The scheduler's process wakes once: hears messages, takes in results, reports, and plans ahead."""

    hears: int = EVERYBODY
    lands: int = 1  # results that have come
    ticks: int = 1  # since it last woke


class Episode(msgspec.Struct, frozen=True):
    """What one seed makes, or what is left of it."""

    settings: Settings
    events: list[Event]

    def source(self) -> str:
        """Python that makes this episode, an event a line."""
        events = "".join(f"        {event!r},\n" for event in self.events)
        return f"Episode(\n    {self.settings!r},\n    [\n{events}    ],\n)"
