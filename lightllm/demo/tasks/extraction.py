"""Putting what a sentence says into a JSON object, and reading a value out of one."""

import json
from random import Random
from typing import Any

from lightllm.demo.example import Example, Task, question
from lightllm.demo.words import ADJECTIVES, ANIMALS, CITIES, COLORS, JOBS, NAMES, OBJECTS, SURNAMES, words

MONTHS = words("January February March April May June July August September October November December")
EXTRACT = [
    "Extract {keys} as JSON: {text}", "{text}\nGive me {keys} as JSON.", "{text}\nReturn a JSON object with {keys}.",
    "Read this text and answer in JSON with {keys}.\n{text}", "Turn this into JSON with the keys {keys}: {text}",
    "From the text below extract {keys} as a JSON object.\n\n{text}", "JSON with {keys} please: {text}",
]  # fmt: skip
VALUE = [
    'What is the value of "{key}" in this JSON? {text}', "In {text}, what is {key}?", "{text}\nWhat is the {key}?",
    'Read the field "{key}" from {text}', "Here is a JSON object: {text} Which value has {key}?",
]  # fmt: skip


def describe_person(random: Random) -> tuple[str, dict[str, Any]]:
    facts = {
        "name": f"{random.choice(NAMES)} {random.choice(SURNAMES)}",
        "age": random.randint(18, 99),
        "city": random.choice(CITIES),
        "job": random.choice(JOBS),
    }
    forms = [
        "{name} is {age} years old, lives in {city} and works as a {job}.",
        "My name is {name}. I am a {job} from {city} and I am {age} years old.",
        "{name}, {age}, is a {job} who lives in {city}.",
        "In {city} there is a {job} called {name}, aged {age}.",
        "The {job} {name} ({age}) moved to {city} last year.",
    ]
    return random.choice(forms).format(**facts), facts


def describe_order(random: Random) -> tuple[str, dict[str, Any]]:
    facts = {
        "customer": random.choice(NAMES),
        "item": f"{random.choice(COLORS)} {random.choice(OBJECTS)}",
        "quantity": random.randint(1, 50),
        "price": random.randint(1, 500),
    }
    forms = [
        "{customer} ordered {quantity} pieces of the {item} for {price} dollars.",
        "Order: {quantity} x {item}, {price} dollars, customer {customer}.",
        "For {price} dollars {customer} bought the {item}, quantity {quantity}.",
        "Please send {quantity} of the {item} to {customer}; the price is {price} dollars.",
    ]
    return random.choice(forms).format(**facts), facts


def describe_event(random: Random) -> tuple[str, dict[str, Any]]:
    facts = {
        "title": f"{random.choice(ADJECTIVES)} {random.choice(OBJECTS)} day",
        "city": random.choice(CITIES),
        "month": random.choice(MONTHS),
        "day": random.randint(1, 28),
        "guests": random.randint(5, 900),
    }
    forms = [
        "The {title} takes place in {city} on {month} {day} with {guests} guests.",
        "On {month} {day}, {city} hosts the {title}; {guests} guests will come.",
        "{guests} guests are invited to the {title} in {city} on {month} {day}.",
    ]
    return random.choice(forms).format(**facts), facts


def describe_pet(random: Random) -> tuple[str, dict[str, Any]]:
    facts = {
        "name": random.choice(NAMES),
        "animal": random.choice(ANIMALS),
        "color": random.choice(COLORS),
        "weight": random.randint(1, 90),
    }
    forms = [
        "{name} is a {color} {animal} that weighs {weight} kilograms.",
        "We have a {animal} named {name}. It is {color} and weighs {weight} kilograms.",
        "The {color} {animal} {name} has a weight of {weight} kilograms.",
    ]
    return random.choice(forms).format(**facts), facts


SUBJECTS = [describe_person, describe_order, describe_event, describe_pet]


def some_facts(random: Random) -> tuple[str, dict[str, Any]]:
    """A sentence, and some of what it says, in any order."""
    text, facts = random.choice(SUBJECTS)(random)
    keys = random.sample(list(facts), random.randint(1, len(facts)))
    return text, {key: facts[key] for key in keys}


def name_keys(keys: list[str], random: Random) -> str:
    quoted = [f'"{key}"' for key in keys] if random.random() < 0.2 else keys
    if len(keys) == 1 or random.random() < 0.3:
        return ", ".join(quoted)
    return ", ".join(quoted[:-1]) + " and " + quoted[-1]


def extract(random: Random) -> Example:
    text, facts = some_facts(random)
    form = random.choice(EXTRACT)
    return question(form.format(keys=name_keys(list(facts), random), text=text), json.dumps(facts), text)


def is_same_json(example: Example, text: str) -> bool:
    """Whether the text is the answer's JSON value, in any spelling."""
    try:
        return json.loads(text) == json.loads(example.answer)
    except ValueError:
        return False


def read_value(random: Random) -> Example:
    _, facts = random.choice(SUBJECTS)(random)
    if random.random() < 0.5:
        facts |= random.choice(SUBJECTS)(random)[1]
    keys = random.sample(list(facts), len(facts))
    text = json.dumps({key: facts[key] for key in keys}, indent=2 if random.random() < 0.2 else None)
    key = random.choice(keys)
    return question(random.choice(VALUE).format(key=key, text=text), str(facts[key]), f"{key} {text}")


TASKS = {"json_extraction": Task(extract, 6, is_same_json), "json_value": Task(read_value, 2)}
