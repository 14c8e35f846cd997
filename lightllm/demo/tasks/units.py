"""Changing a quantity from one unit into another, in whole numbers."""

from random import Random

from lightllm.demo.example import Example, Task, phrase, question

# Large unit, its short name, small unit, its short name, how many of the small make the large.
UNITS = [
    ("kilometers", "km", "meters", "m", 1000), ("meters", "m", "centimeters", "cm", 100),
    ("meters", "m", "millimeters", "mm", 1000), ("centimeters", "cm", "millimeters", "mm", 10),
    ("kilograms", "kg", "grams", "g", 1000), ("tons", "t", "kilograms", "kg", 1000),
    ("grams", "g", "milligrams", "mg", 1000), ("liters", "l", "milliliters", "ml", 1000),
    ("hours", "h", "minutes", "min", 60), ("minutes", "min", "seconds", "s", 60),
    ("days", "d", "hours", "h", 24), ("weeks", "weeks", "days", "d", 7), ("years", "years", "months", "months", 12),
    ("seconds", "s", "milliseconds", "ms", 1000), ("feet", "ft", "inches", "in", 12), ("yards", "yd", "feet", "ft", 3),
    ("dollars", "dollars", "cents", "cents", 100), ("kilobytes", "kB", "bytes", "B", 1000),
    ("megabytes", "MB", "kilobytes", "kB", 1000), ("gigabytes", "GB", "megabytes", "MB", 1000),
]  # fmt: skip
FORMS = [
    "Convert {n} {a} to {b}.", "How many {b} are {n} {a}?", "How many {b} are in {n} {a}?", "{n} {a} in {b}?",
    "What is {n} {a} in {b}?", "Change {n} {a} into {b}.", "Express {n} {a} in {b}.", "{n} {a} to {b}",
    "How much is {n} {a} in {b}?", "Turn {n} {a} into {b}.",
]  # fmt: skip


def convert(random: Random) -> Example:
    large, large_short, small, small_short, factor = random.choice(UNITS)
    count = random.randint(1, 200 if factor in (10, 100, 1000) else 60)
    quantities = (count, count * factor)
    names = (large_short, small_short) if random.random() < 0.3 else (large, small)
    if random.random() < 0.35:
        quantities, names, large, small = quantities[::-1], names[::-1], small, large
    text = phrase(random, FORMS, n=quantities[0], a=names[0], b=names[1])
    return question(text, f"{quantities[0]} {large} = {quantities[1]} {small}", f"{quantities[0]} {large} {small}")


TASKS = {"unit_conversion": Task(convert, 4)}
