"""Makes a failing episode as small as it goes while it still fails in the same place."""

import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

from tests.fuzzing import world
from tests.fuzzing.events import Ask, Episode, Event, Settings

Struct = TypeVar("Struct", bound=msgspec.Struct)
Fails = Callable[[Episode], bool]
_MOST_ROUNDS = 8


def failure(episode: Episode) -> Exception | None:
    """What goes wrong in the episode, if anything does."""
    try:
        world.run(episode)
    except Exception as error:  # whatever it is, it is what is looked for
        return error
    return None


def shrink(episode: Episode) -> Episode:
    """The smallest episode found that fails as this one does. Deterministic."""
    error = failure(episode)
    assert error is not None, "what is shrunk fails"
    wanted = _place(error)

    def fails(candidate: Episode) -> bool:
        error = failure(candidate)
        return error is not None and _place(error) == wanted

    for _ in range(_MOST_ROUNDS):
        before = episode
        episode = _with_fewer_events(episode, fails)
        episode = _with_simpler_events(episode, fails)
        episode = _with_simpler_settings(episode, fails)
        if episode == before:
            break
    return episode


def _place(error: Exception) -> tuple[str, str, int]:
    """Where something went wrong: kind of error, file and line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error).__name__, last.filename, last.lineno or 0


def _with_fewer_events(episode: Episode, fails: Fails) -> Episode:
    """Leaves out runs of events, long ones first."""
    size = len(episode.events)
    while size:
        start = 0
        while start < len(episode.events):
            shorter = Episode(episode.settings, episode.events[:start] + episode.events[start + size :])
            if fails(shorter):
                episode = shorter
            else:
                start += size
        size //= 2
    return episode


def _with_simpler_events(episode: Episode, fails: Fails) -> Episode:
    for i in range(len(episode.events)):
        episode = _simplest(episode, partial(_simpler_at, i), fails)
    return episode


def _with_simpler_settings(episode: Episode, fails: Fails) -> Episode:
    return _simplest(episode, lambda of: (Episode(s, of.events) for s in _simpler_settings(of.settings)), fails)


def _simplest(episode: Episode, simpler: Callable[[Episode], Iterator[Episode]], fails: Fails) -> Episode:
    """Goes from episode to simpler episode as long as one of those fails too."""
    while (candidate := next(filter(fails, simpler(episode)), None)) is not None:
        episode = candidate
    return episode


def _simpler_at(i: int, episode: Episode) -> Iterator[Episode]:
    before, after = episode.events[:i], episode.events[i + 1 :]
    return (Episode(episode.settings, [*before, event, *after]) for event in _simpler(episode.events[i]))


def _simpler(event: Event) -> Iterator[Event]:
    """This event with one thing less to it. Nothing that is yielded leads back to it."""
    yield from _with_defaults(event)
    if isinstance(event, Ask):
        for size in (len(event.prompt) // 2, len(event.prompt) - 1):
            if 0 < size < len(event.prompt):
                yield msgspec.structs.replace(event, prompt=event.prompt[:size])
        if event.n > 1:
            yield msgspec.structs.replace(event, n=event.n - 1)
        if event.max_tokens is not None and event.max_tokens > 1:
            yield msgspec.structs.replace(event, max_tokens=event.max_tokens - 1)


def _simpler_settings(settings: Settings) -> Iterator[Settings]:
    yield from _with_defaults(settings)
    for name in settings.config:
        fewer = {key: value for key, value in settings.config.items() if key != name}
        yield msgspec.structs.replace(settings, config=fewer)


def _with_defaults(struct: Struct) -> Iterator[Struct]:
    """With one field after the other as it is if nothing is said of it."""
    for field in msgspec.structs.fields(struct):
        if field.default is not msgspec.NODEFAULT and getattr(struct, field.name) != field.default:
            yield msgspec.structs.replace(struct, **{field.name: field.default})
