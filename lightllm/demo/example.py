"""An example to learn from, a task that makes them, and the split that keeps some of them out of training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

Message = dict[str, Any]
Tool = dict[str, Any]

# One key in so many is held out of training.
HELD_OUT_PART = 20


@dataclass(frozen=True)
class Example:
    """A conversation up to the turn to be answered, and that turn's right text.

    Earlier assistant turns in `messages` are right answers too, and are learned.
    `key` says what is asked and leaves out how: two examples with one key are on one side of the split.
    """

    messages: list[Message]
    answer: str
    key: str
    tools: list[Tool] | None = None


def is_exact(example: Example, text: str) -> bool:
    """Whether `text` is the answer, but for space around it."""
    return text.strip() == example.answer


@dataclass(frozen=True)
class Task:
    """`make` draws an example; `is_right` judges a text as its answer; `weight` is the task's part of training."""

    make: Callable[[Random], Example]
    weight: float
    is_right: Callable[[Example, str], bool] = is_exact
    # Whether its one question may stand among others in a longer chat.
    is_chainable: bool = True


def is_held_out(key: str) -> bool:
    """The same answer on every machine and in every process."""
    return crc32(key.encode()) % HELD_OUT_PART == 0


def draw(task: Task, random: Random, *, held_out: bool = False) -> Example:
    """An example of the task from the wanted side of the split."""
    while True:
        example = task.make(random)
        if is_held_out(example.key) == held_out:
            return example


def question(text: str, answer: str, key: str | None = None) -> Example:
    """An example of one user turn; without a key, the text is the key."""
    return Example([{"role": "user", "content": text}], answer, key or text)


def phrase(random: Random, forms: Sequence[str], **values: Any) -> str:
    """One of the forms, filled in and varied as people do: small first letter, no sign at the end, a polite word."""
    text = random.choice(forms).format(**values)
    chance = random.random()
    if chance < 0.1 and text[-1] in "?.":
        text = text[:-1]
    if 0.05 < chance < 0.15:
        text = text[0].lower() + text[1:]
    elif 0.15 < chance < 0.2:
        text = random.choice(POLITE).format(text[0].lower() + text[1:])
    return text


POLITE = [
    "Please {}", "Hi, {}", "Hello! {}", "Could you tell me: {}", "Quick question: {}", "Hey, {}", "Now {}", "OK, {}",
]  # fmt: skip
