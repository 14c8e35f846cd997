"""Chats in which a later turn needs an earlier one."""

from random import Random

from lightllm.demo.example import Example, Message, Task
from lightllm.demo.words import CITIES, COLORS, FRUITS, JOBS, NAMES

# What the user says, what is answered, how the user asks for it later, and the answer.
FACTS = [
    (
        "My name is {x}.",
        "Nice to meet you, {x}!",
        ["What is my name?", "Who am I?", "Do you remember my name?"],
        "Your name is {x}.",
        NAMES,
    ),
    (
        "I am {x}.",
        "Nice to meet you, {x}!",
        ["What is my name?", "Who am I?", "Do you know my name?"],
        "Your name is {x}.",
        NAMES,
    ),
    (
        "I live in {x}.",
        "{x} is a nice city.",
        ["Where do I live?", "Which city do I live in?"],
        "You live in {x}.",
        CITIES,
    ),
    (
        "My favorite color is {x}.",
        "I will remember that.",
        ["What is my favorite color?", "Which color do I like?"],
        "Your favorite color is {x}.",
        COLORS,
    ),
    ("I work as a {x}.", "That is a fine job.", ["What is my job?", "What do I work as?"], "You work as a {x}.", JOBS),
    ("I like {x}.", "I will remember that.", ["What do I like?", "Which fruit do I like?"], "You like {x}.", FRUITS),
]
NEXT = [("Add {b} to that.", "+"), ("Now add {b}.", "+"), ("And plus {b}?", "+"), ("Now subtract {b}.", "-"),
        ("And minus {b}?", "-")]  # fmt: skip


def turn(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def remember(random: Random) -> Example:
    """Up to three things are said, and one of them is asked for."""
    facts = random.sample(FACTS[1:] if random.random() < 0.3 else FACTS[:1] + FACTS[2:], random.randint(1, 3))
    messages, told = [], []
    for statement, reply, asks, answer, values in facts:
        value = random.choice(values)
        messages += [turn("user", statement.format(x=value)), turn("assistant", reply.format(x=value))]
        told.append((asks, answer.format(x=value)))
    asks, answer = random.choice(told)
    messages.append(turn("user", random.choice(asks)))
    return Example(messages, answer, " ".join(message["content"] for message in messages))


def go_on(random: Random) -> Example:
    """A sum, then another that starts from its result."""
    a, b, c = random.randint(1, 99), random.randint(1, 99), random.randint(1, 99)
    total = a + b
    form, sign = random.choice(NEXT)
    result = total + c if sign == "+" else total - c
    messages = [
        turn("user", f"What is {a} + {b}?"),
        turn("assistant", f"{a} + {b} = {total}"),
        turn("user", form.format(b=c)),
    ]
    # The first sum is learned too, so the split goes by it.
    return Example(messages, f"{total} {sign} {c} = {result}", f"{min(a, b)}+{max(a, b)}")


TASKS = {
    "memory": Task(remember, 2, is_chainable=False),
    "follow_up": Task(go_on, 1.5, is_chainable=False),
}
