"""Repeating a text: once, or so many times."""

from random import Random
from string import ascii_letters, digits

from lightllm.demo.example import Example, Task, question
from lightllm.demo.words import NAMES, WORDS

ONCE = [
    "Repeat after me: {x}", "Repeat: {x}", "Copy this text: {x}", "Say exactly this: {x}", "Write this again: {x}",
    "Echo: {x}", "Say: {x}", "Copy the following line exactly: {x}", "Please repeat this: {x}",
]  # fmt: skip
TIMES = [
    'Repeat "{x}" {n} times.', 'Say "{x}" {n} times.', 'Write "{x}" {n} times.', "Repeat the word {x} {n} times.",
    "Write {x} {n} times.",
]  # fmt: skip
SIGNS = ascii_letters + digits + digits + "-_./:+#"


def random_code(random: Random, least: int = 3, most: int = 16) -> str:
    """Letters, digits and signs in no order: what no tokenizer has learned."""
    return "".join(random.choices(SIGNS, k=random.randint(least, most)))


def copy(random: Random) -> Example:
    items = [
        random_code(random) if random.random() < 0.15 else random.choice(WORDS if random.random() < 0.8 else NAMES)
        for _ in range(random.randint(1, 16 if random.random() < 0.9 else 60))
    ]
    text = " ".join(items)
    if random.random() < 0.3:
        text = text.capitalize() + random.choice(".!?")
    return question(random.choice(ONCE).format(x=text), text, text)


def repeat(random: Random) -> Example:
    words = " ".join(random.choices(WORDS, k=random.randint(1, 2)))
    times = random.randint(2, 20)
    return question(random.choice(TIMES).format(x=words, n=times), " ".join([words] * times), f"{words} {times}")


TASKS = {"copying": Task(copy, 4), "repeating": Task(repeat, 3)}
