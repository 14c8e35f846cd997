"""Longer texts that end by themselves: tales, descriptions, sequences.

A tale has many right continuations, so its next-token distribution is broad: good for trying out sampling.
"""

import re
from random import Random

from lightllm.demo.example import Example, Task, phrase, question
from lightllm.demo.words import ADJECTIVES, ANIMALS, CITIES, JOBS, NAMES, OBJECTS, VERBS

PLACES = [
    "in the {o}", "near the {o}", "behind the {o}", "under the {o}", "beside a {a} {o}", "far from {c}", "in {c}",
    "on the way to {c}",
]  # fmt: skip
TIMES = [
    "In the morning", "That evening", "One day", "The next day", "After a while", "At noon", "Before long", "Later",
    "In spring", "In winter", "Every night", "Long ago", "Soon",
]  # fmt: skip
EVENTS = [
    "{t}, {n} met a {a} {x} {p}.", "{t}, {n} found a {a} {o} {p}.",
    "{n} wanted to {v} the {o}, but the {o2} was too {a}.", "The {x} asked {n} to {v} a {o}.",
    "{t}, the {a} {x} began to {v} the {o}.", "{n} and the {x} walked {p}.", "A {j} from {c} gave {n} a {a} {o}.",
    "The {o} was {a}, and the {o2} was {a2}.", "{n} was {a} and went home.", "{t}, it was {a} and {a2} {p}.",
    '"I will {v} it," said the {j}.', '"Where is my {o}?" asked the {x}.', "The {j} could {v} every {o} {p}.",
    "{n} put the {o} {p}.", "Nobody knew why the {x} was so {a}.",
]  # fmt: skip
TALE = [
    "Tell me a story about a {x} and a {o}.", "Write a story about a {x} and a {o}.",
    "Tell a tale of a {x} and a {o}.", "Can you write a short story about a {x} with a {o}?",
    "I want a story about a {x} and a {o}.",
]  # fmt: skip
LONG_TALE = [
    "Tell me a long story about a {x} and a {o}.", "Write a long story about a {x} and a {o}.",
    "Write a very long tale about a {x} and a {o}.",
]  # fmt: skip
DESCRIBE = [
    "Write a long description of a {a} {o}.", "Describe a {a} {o} at length.", "Describe a {a} {o} in detail.",
]  # fmt: skip
SIDES = ["top", "bottom", "left side", "right side", "front", "back", "inside", "edge", "middle", "surface"]


def tell_sentence(random: Random, name: str = "") -> str:
    form = random.choice(EVENTS).replace("{p}", random.choice(PLACES))
    return form.format(
        n=name or random.choice(NAMES),
        x=random.choice(ANIMALS),
        a=random.choice(ADJECTIVES),
        a2=random.choice(ADJECTIVES),
        o=random.choice(OBJECTS),
        o2=random.choice(OBJECTS),
        j=random.choice(JOBS),
        c=random.choice(CITIES),
        v=random.choice(VERBS),
        t=random.choice(TIMES),
    )


def tell(random: Random) -> Example:
    animal, thing, name = random.choice(ANIMALS), random.choice(OBJECTS), random.choice(NAMES)
    is_long = random.random() < 0.4
    text = phrase(random, LONG_TALE if is_long else TALE, x=animal, o=thing)
    sentences = [
        tell_sentence(random, name) for _ in range(random.randint(12, 25) if is_long else random.randint(3, 6))
    ]
    opening = f"Once upon a time there was a {animal} called {name} who had a {thing}."
    answer = f"{opening} {' '.join(sentences)} And so {name} the {animal} kept the {thing}. The end."
    return question(text, answer, f"{animal} {thing}")


def is_tale(example: Example, text: str) -> bool:
    """Whether it is about what was asked, and comes to its end in whole sentences."""
    animal, thing = example.key.split()
    has_subject = text.startswith("Once upon a time there was a ") and animal in text and thing in text
    return has_subject and text.endswith("The end.") and text.count(".") >= 4


def describe(random: Random) -> Example:
    adjective, thing = random.choice(ADJECTIVES), random.choice(OBJECTS)
    lines = [f"This is a {adjective} {thing}."]
    for side in random.sample(SIDES, random.randint(5, len(SIDES))):
        looks = f"{random.choice(ADJECTIVES)} and {random.choice(ADJECTIVES)}"
        lines.append(
            f"The {side} of the {thing} is {looks}, like a {random.choice(ADJECTIVES)} {random.choice(OBJECTS)}."
        )
    lines.append(f"Nothing else is like this {adjective} {thing}.")
    key = f"{adjective} {thing}"
    return question(phrase(random, DESCRIBE, a=adjective, o=thing), " ".join(lines), key)


def is_description(example: Example, text: str) -> bool:
    body = rf"This is a {example.key}\.( The [a-z ]+ is \w+ and \w+, like a \w+ \w+\.){{3,}} Nothing else is like this "
    return re.fullmatch(f"{body}{example.key}\\.", text) is not None


COUNT = [
    "Count from {a} to {b}.", "List the numbers from {a} to {b}.", "Count up from {a} to {b}.", "Count {a} to {b}.",
]  # fmt: skip
COUNT_DOWN = ["Count down from {b} to {a}.", "Count backwards from {b} to {a}."]
MULTIPLES = [
    "List the first {n} multiples of {k}.", "Give me {n} multiples of {k}.", "Write the first {n} multiples of {k}.",
]  # fmt: skip
EVEN = ["List the first {n} even numbers.", "Give me the first {n} even numbers.", "Write {n} even numbers."]
ODD = ["List the first {n} odd numbers.", "Give me the first {n} odd numbers.", "Write {n} odd numbers."]


def count_up_or_down(random: Random) -> Example:
    """Most often from one; up to a hundred numbers, which is up to 400 tokens."""
    first = 1 if random.random() < 0.6 else random.randint(0, 200)
    last = first + random.choice([random.randint(1, 20), random.randint(1, 100)])
    numbers = list(range(first, last + 1))
    if random.random() < 0.25:
        text = phrase(random, COUNT_DOWN, a=first, b=last)
        return question(text, ", ".join(map(str, numbers[::-1])), f"down {first} {last}")
    return question(phrase(random, COUNT, a=first, b=last), ", ".join(map(str, numbers)), f"{first} {last}")


def list_multiples(random: Random) -> Example:
    length = random.randint(1, 30)
    kind = random.randrange(3)
    if kind == 0:
        factor = random.randint(2, 12)
        text, numbers = phrase(random, MULTIPLES, n=length, k=factor), [factor * i for i in range(1, length + 1)]
    elif kind == 1:
        factor, text, numbers = 2, phrase(random, EVEN, n=length), [2 * i for i in range(1, length + 1)]
    else:
        factor, text, numbers = 1, phrase(random, ODD, n=length), [2 * i - 1 for i in range(1, length + 1)]
    return question(text, ", ".join(map(str, numbers)), f"{length} multiples of {factor}")


TASKS = {
    "story": Task(tell, 1.5, is_tale),
    "description": Task(describe, 0.7, is_description),
    "count_up_or_down": Task(count_up_or_down, 3),
    "multiples": Task(list_multiples, 2),
}
