"""Sums. An answer repeats its question, so that the digits to be worked on stand close by."""

from random import Random

from lightllm.demo.example import Example, Task, phrase, question
from lightllm.demo.words import FRUITS, NAMES, OBJECTS

ADD = [
    "What is {a} + {b}?", "{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=?", "Add {a} and {b}.",
    "What is {a} plus {b}?", "What is {a}+{b}?", "Calculate {a} + {b}.", "How much is {a} plus {b}?",
    "Compute {a}+{b}.", "{a} plus {b}?", "What is the sum of {a} and {b}?", "How much is {a} + {b}?",
    "Can you add {a} and {b}?", "What do {a} and {b} add up to?",
]  # fmt: skip
SUBTRACT = [
    "What is {a} - {b}?", "{a} - {b}", "{a}-{b}", "{a} - {b} =", "Subtract {b} from {a}.", "What is {a} minus {b}?",
    "Calculate {a} - {b}.", "How much is {a} minus {b}?", "Compute {a}-{b}.", "{a} minus {b}?", "What is {a}-{b}?",
    "What is the difference of {a} and {b}?", "Take {b} away from {a}.", "How much is {a} - {b}?",
]  # fmt: skip
MULTIPLY = [
    "What is {a} * {b}?", "{a} * {b}", "{a}*{b}", "{a} x {b}", "{a} × {b}", "{a} * {b} =", "What is {a} times {b}?",
    "Multiply {a} by {b}.", "Calculate {a} * {b}.", "How much is {a} times {b}?",
    "What is the product of {a} and {b}?", "What is {a}*{b}?", "{a} times {b}?", "Compute {a} x {b}.",
    "What is {a} x {b}?",
]  # fmt: skip
DIVIDE = [
    "What is {a} / {b}?", "{a} / {b}", "{a}/{b}", "Divide {a} by {b}.", "What is {a} divided by {b}?", "{a} ÷ {b}",
    "Calculate {a} / {b}.", "How much is {a} divided by {b}?", "How many times does {b} go into {a}?",
]  # fmt: skip
GAIN = [
    "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
    "There are {a} {things} in a box. {name} adds {b} {things}. How many {things} are there?",
    "{name} buys {a} {things} on Monday and {b} {things} on Tuesday. How many {things} is that?",
    "If {name} has {a} {things} and finds {b} others, how many are there in all?",
]  # fmt: skip
LOSS = [
    "{name} has {a} {things} and gives away {b}. How many {things} are left?",
    "There are {a} {things} in a box. {name} takes {b} of them. How many {things} remain?",
    "{name} had {a} {things} and lost {b}. How many {things} does {name} have now?",
    "Of {a} {things}, {b} are sold. How many {things} are left?",
]  # fmt: skip


def make_sum(random: Random, least: int, most: int) -> Example:
    a, b = random.randint(least, most), random.randint(least, most)
    text = phrase(random, ADD, a=a, b=b)
    return question(text, f"{a} + {b} = {a + b}", f"{min(a, b)}+{max(a, b)}")


def add_two_digits(random: Random) -> Example:
    return make_sum(random, 10 if random.random() < 0.9 else 0, 99)


def add_three_digits(random: Random) -> Example:
    return make_sum(random, 100 if random.random() < 0.8 else 0, 999)


def subtract(random: Random) -> Example:
    most = random.choice([20, 99, 99, 999, 999])
    a, b = random.randint(0, most), random.randint(0, most)
    if random.random() < 0.85:
        a, b = max(a, b), min(a, b)
    return question(phrase(random, SUBTRACT, a=a, b=b), f"{a} - {b} = {a - b}", f"{a}-{b}")


def multiply(random: Random) -> Example:
    """Up to three digits times one, and the table up to 12; the table is wholly in training."""
    if random.random() < 0.3:
        a, b = random.randint(0, 12), random.randint(0, 12)
        key = "table"
    else:
        a, b = random.randint(10, random.choice([99, 999])), random.randint(2, 9)
        key = f"{a}*{b}"
    left, right = (a, b) if random.random() < 0.8 else (b, a)
    return question(phrase(random, MULTIPLY, a=left, b=right), f"{left} * {right} = {a * b}", key)


def divide(random: Random) -> Example:
    b, result = random.randint(2, 9), random.randint(1, 99)
    a = b * result
    return question(phrase(random, DIVIDE, a=a, b=b), f"{a} / {b} = {result}", f"{a}/{b}")


def solve_story(random: Random) -> Example:
    a, b = random.randint(1, 99), random.randint(1, 99)
    name, things = random.choice(NAMES), random.choice(FRUITS if random.random() < 0.5 else OBJECTS)
    things = things if things.endswith("s") else things + "s"
    if random.random() < 0.5:
        text, answer = random.choice(GAIN), f"{a} + {b} = {a + b}"
    else:
        a, b = max(a, b), min(a, b)
        text, answer = random.choice(LOSS), f"{a} - {b} = {a - b}"
    text = text.format(name=name, things=things, a=a, b=b)
    return question(text, f"{answer} {things}", f"{name} {answer} {things}")


TASKS = {
    "addition_two_digits": Task(add_two_digits, 4),
    "addition_three_digits": Task(add_three_digits, 5),
    "subtraction": Task(subtract, 6),
    "multiplication": Task(multiply, 6),
    "division": Task(divide, 3),
    "word_problem": Task(solve_story, 3),
}
