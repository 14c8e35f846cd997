"""Finding a value in a context of tens to thousands of tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log
from random import Random

from lightllm.demo.example import Example, Message, Task
from lightllm.demo.tasks.stories import tell_sentence
from lightllm.demo.words import ADJECTIVES, ANIMALS, CITIES, NAMES, OBJECTS, SURNAMES, WORDS


@dataclass(frozen=True)
class Style:
    """How a document writes down a key and its value, and how one asks for it."""

    entry: str
    asks: tuple[str, ...]
    key: Callable[[Random], str]
    value: Callable[[Random], str]
    separator: str = "\n"


def pair_key(random: Random) -> str:
    return f"{random.choice(ADJECTIVES)} {random.choice(ANIMALS if random.random() < 0.5 else OBJECTS)}"


def person_key(random: Random) -> str:
    return f"{random.choice(NAMES)} {random.choice(SURNAMES)}"


def number_key(random: Random) -> str:
    return str(random.randint(100, 9999))


def code_value(random: Random) -> str:
    return str(random.randint(10, 10 ** random.randint(2, 6)))


def word_value(random: Random) -> str:
    return random.choice(WORDS)


def city_value(random: Random) -> str:
    return random.choice(CITIES)


STYLES = [
    Style(
        "The code of the {k} is {v}.",
        ("What is the code of the {k}?", "Which code has the {k}?", "{k}: which code?"),
        pair_key,
        code_value,
        " ",
    ),
    Style(
        "{k}: {v}",
        ("What is the value of {k}?", "{k}?", "Look up {k}.", "Which value belongs to {k}?", "Find {k}."),
        pair_key,
        code_value,
    ),
    Style("{k} = {v}", ("What is {k}?", "Give me the value of {k}.", "Look up {k}."), pair_key, word_value),
    Style(
        "{k} lives in {v}.",
        ("Where does {k} live?", "In which city does {k} live?", "What is the city of {k}?"),
        person_key,
        city_value,
        " ",
    ),
    Style(
        "- {k}: {v}",
        ("What is the number of {k}?", "Which number has {k}?", "Phone number of {k}?"),
        person_key,
        code_value,
    ),
    Style("{k} likes the {v}.", ("What does {k} like?", "Which thing does {k} like?"), person_key, word_value, " "),
    Style(
        "Room {k}: {v}", ("What is in room {k}?", "Who or what is in room {k}?", "Room {k}?"), number_key, word_value
    ),
    Style(
        "| {k} | {v} |", ("Which value stands in the row of {k}?", "What is the value of {k}?"), number_key, code_value
    ),
    Style('"{k}": {v},', ("What is the value of {k}?", "Read the value of {k}."), pair_key, code_value),
]
INTRODUCTIONS = ["", "", "Here is a list.\n", "Read this.\n", "Use this information:\n", "Context:\n", "Document:\n"]


def write_document(random: Random, style: Style, num_entries: int, filler: float) -> tuple[list[str], dict[str, str]]:
    """Lines of a document, and its values by key; about `filler` sentences of a tale for each entry."""
    facts: dict[str, str] = {}
    while len(facts) < num_entries:
        facts[style.key(random)] = style.value(random)
    lines = [style.entry.format(k=key, v=value) for key, value in facts.items()]
    lines += [tell_sentence(random) for _ in range(round(filler * num_entries))]
    random.shuffle(lines)
    return lines, facts


def look_up(
    random: Random, num_entries: int, num_questions: int, filler: float, *, question_first: float = 0.1
) -> Example:
    """Questions about a document in a system or user turn; `question_first` is how often they stand before it."""
    style = random.choice(STYLES)
    lines, facts = write_document(random, style, num_entries, filler)
    document = random.choice(INTRODUCTIONS) + style.separator.join(lines)
    keys = random.sample(list(facts), min(num_questions, len(facts)))
    asks = [random.choice(style.asks).format(k=key) for key in keys]
    place = random.random()
    if place < 0.2:
        messages: list[Message] = [{"role": "system", "content": document}, {"role": "user", "content": asks[0]}]
    elif place < 0.2 + question_first:
        messages = [{"role": "user", "content": f"{asks[0]}\n\n{document}"}]
    else:
        messages = [{"role": "user", "content": f"{document}\n\n{asks[0]}"}]
    for key, ask in zip(keys, asks[1:], strict=False):
        messages += [{"role": "assistant", "content": facts[key]}, {"role": "user", "content": ask}]
    return Example(messages, facts[keys[-1]], f"{keys[-1]} {facts[keys[-1]]} {num_entries}")


def log_uniform(random: Random, least: float, most: float) -> int:
    return round(exp(random.uniform(log(least), log(most))))


def look_up_short(random: Random) -> Example:
    """Up to about 400 tokens."""
    filler = random.choice([0, 0, 1, 3])
    return look_up(random, log_uniform(random, 1, 36 / (1 + filler)), random.choice([1, 1, 2, 3]), filler)


def look_up_long(random: Random) -> Example:
    """About 400 to 7500 tokens; many questions share a document, because a document is dear."""
    filler = random.choice([0, 0, 1, 3, 10])
    return look_up(random, log_uniform(random, 40, 600) // (1 + filler) + 1, 12, filler)


def look_up_very_long(random: Random) -> Example:
    """About 4000 to 12,000 tokens."""
    filler = random.choice([0, 0, 1])
    return look_up(random, random.randint(700, 1000) // (1 + filler), 12, filler)


def find_needle(random: Random) -> Example:
    """One odd line in a long tale."""
    name, code = random.choice(WORDS), str(random.randint(10, 999999))
    lines = [tell_sentence(random) for _ in range(log_uniform(random, 3, 300))]
    form = random.choice(["The secret {n} is {c}.", "Remember that the {n} is {c}.", "The magic {n} is {c}."])
    lines.insert(random.randrange(len(lines) + 1), form.format(n=name, c=code))
    ask = random.choice(["What is the secret {n}?", "What is the {n}?", "Which {n} should be remembered?"])
    text = f"{' '.join(lines)}\n\n{ask.format(n=name)}"
    return Example([{"role": "user", "content": text}], code, f"{name} {code}")


TASKS = {
    "look_up": Task(look_up_short, 8, is_chainable=False),
    "look_up_long": Task(look_up_long, 0.8, is_chainable=False),
    "needle": Task(find_needle, 0.7, is_chainable=False),
}

LONGEST_TOKENS = 8192  # that the tasks above mean to fit
# One text in a thousand is one token in ten.
VERY_LONG = {"look_up_very_long": Task(look_up_very_long, 0.1, is_chainable=False)}
