"""Calling a tool when a question needs one, and answering from what it gave back."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

from lightllm.demo.example import Example, Task, Tool, phrase
from lightllm.demo.tasks.arithmetic import add_two_digits
from lightllm.demo.words import ADJECTIVES, CITIES, COLORS, NAMES, OBJECTS, WORDS

KINDS = {"city": CITIES, "name": NAMES, "item": OBJECTS, "color": COLORS, "word": WORDS}
NUMBERS = ["amount", "count", "limit", "days", "room", "size"]


@dataclass(frozen=True)
class Purpose:
    """A tool, what its parameters are (`number:` before whole numbers), and how people ask for it."""

    name: str
    description: str
    parameters: tuple[str, ...]
    asks: tuple[str, ...]


KNOWN = [
    Purpose(
        "get_weather",
        "Get the current weather of a city",
        ("city",),
        (
            "What is the weather in {city}?",
            "How is the weather in {city} today?",
            "Is it raining in {city}?",
            "Weather in {city}?",
            "Tell me the weather in {city}.",
            "What's the weather like in {city}?",
        ),
    ),
    Purpose(
        "get_time",
        "Get the current time in a city",
        ("city",),
        ("What time is it in {city}?", "Tell me the time in {city}.", "What is the local time in {city}?"),
    ),
    Purpose(
        "get_forecast",
        "Get a weather forecast",
        ("city", "number:days"),
        ("What will the weather in {city} be for the next {days} days?", "Give me a {days} day forecast for {city}."),
    ),
    Purpose(
        "send_message",
        "Send a message to a person",
        ("name", "word:text"),
        ("Send {name} a message that says {text}.", "Tell {name}: {text}", "Write {text} to {name}."),
    ),
    Purpose(
        "search",
        "Search the web",
        ("word:query",),
        ("Search the web for {query}.", "Look up {query} on the web.", "Find pages about {query}."),
    ),
    Purpose(
        "book_room",
        "Book a hotel room",
        ("city", "number:nights"),
        ("Book a room in {city} for {nights} nights.", "I need a hotel in {city} for {nights} nights."),
    ),
    Purpose(
        "order_item",
        "Order something from the shop",
        ("item", "number:quantity"),
        ("Order {quantity} pieces of {item}.", "Buy {quantity} of the {item}.", "I want to order {quantity} {item}."),
    ),
    Purpose(
        "set_timer",
        "Set a timer",
        ("number:minutes",),
        ("Set a timer for {minutes} minutes.", "Wake me in {minutes} minutes.", "Timer, {minutes} minutes."),
    ),
    Purpose(
        "get_stock",
        "Get how many pieces of an item are in stock",
        ("item",),
        ("How many {item} are in stock?", "Is there any {item} left in stock?", "Check the stock of {item}."),
    ),
    Purpose(
        "set_light",
        "Set the color of a lamp",
        ("name:room", "color"),
        ("Make the light of {room} {color}.", "Set the lamp of {room} to {color}."),
    ),
    Purpose(
        "add_event",
        "Add an event to the calendar",
        ("word:title", "number:day"),
        ("Put {title} on day {day} of my calendar.", "Add the event {title} on day {day}."),
    ),
    Purpose(
        "call_person", "Make a phone call", ("name",), ("Call {name}.", "Phone {name}.", "I want to talk to {name}.")
    ),
]
SYNONYMS = {
    "city": ["city", "location", "place", "town"],
    "name": ["name", "person", "recipient", "user"],
    "query": ["query", "q", "keyword", "text"],
    "item": ["item", "product", "article"],
    "text": ["text", "message", "body"],
    "quantity": ["quantity", "count", "number"],
    "minutes": ["minutes", "duration"],
    "title": ["title", "event", "subject"],
    "get": ["get", "get_current", "fetch", "read", "lookup"],
    "order": ["order", "buy"],
    "send": ["send", "write"],
    "set": ["set", "change"],
    "add": ["add", "create"],
    "book": ["book", "reserve"],
}
ACTIONS = [
    "get", "find", "check", "read", "open", "delete", "update", "count", "lock", "print", "start", "stop", "show",
]  # fmt: skip
THINGS = [
    "price", "status", "owner", "report", "order", "account", "file", "record", "invoice", "score", "address",
    "route",
]  # fmt: skip


def split_parameter(parameter: str) -> tuple[str, str]:
    """`kind:name` or a name that is its own kind."""
    kind, _, name = parameter.partition(":")
    return kind, name or kind


def invent_purpose(random: Random) -> Purpose:
    """A tool like many in the world, so that a tool never seen is called as well."""
    action, thing = random.choice(ACTIONS), random.choice(THINGS)
    kind = random.choice([*KINDS, "number"])
    name = random.choice(NUMBERS) if kind == "number" else kind
    asks = (
        f"{action.capitalize()} the {thing} of {{{name}}}.",
        f"I want to {action} the {thing} for {{{name}}}.",
        f"Can you {action} the {thing} of {{{name}}}?",
        f"Please {action} the {thing}, {name} {{{name}}}.",
    )
    parameter = f"{kind}:{name}"
    return Purpose(f"{action}_{thing}", f"{action.capitalize()} the {thing} of a {name}", (parameter,), asks)


def rename(random: Random, purpose: Purpose) -> Purpose:
    """The same under other names that people give such tools and parameters."""
    parameters, asks = [], purpose.asks
    for kind, name in map(split_parameter, purpose.parameters):
        new = random.choice(SYNONYMS.get(name, [name]))
        parameters.append(f"{kind}:{new}")
        asks = tuple(ask.replace(f"{{{name}}}", f"{{{new}}}") for ask in asks)
    verb, _, rest = purpose.name.partition("_")
    name = f"{random.choice(SYNONYMS.get(verb, [verb]))}_{rest}".strip("_")
    return Purpose(name, purpose.description, tuple(parameters), asks)


def some_purpose(random: Random) -> Purpose:
    if random.random() < 0.5:
        return invent_purpose(random)
    purpose = random.choice(KNOWN)
    return purpose if random.random() < 0.3 else rename(random, purpose)


def declare(random: Random, purpose: Purpose) -> Tool:
    """The tool as an OpenAI client would send it, more or less explained; at times with a parameter nobody needs."""
    properties: dict[str, Any] = {}
    is_explained = random.random() < 0.3
    for kind, name in map(split_parameter, purpose.parameters):
        properties[name] = {"type": "integer" if kind == "number" else "string"}
        if is_explained:
            properties[name]["description"] = f"The {name}"
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": list(properties)}
    if random.random() < 0.1:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    function = {"name": purpose.name, "description": purpose.description, "parameters": schema}
    return {"type": "function", "function": function}


def some_arguments(random: Random, purpose: Purpose) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for kind, name in map(split_parameter, purpose.parameters):
        arguments[name] = random.randint(1, 99) if kind == "number" else random.choice(KINDS[kind])
    return arguments


def write_call(name: str, arguments: dict[str, Any]) -> str:
    """A call as the chat template writes it."""
    return f'<tool_call>\n{{"name": {json.dumps(name)}, "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def offer(random: Random, purpose: Purpose) -> list[Tool]:
    """The tool among up to three others, in any order."""
    chosen = {purpose.name: purpose}
    for _ in range(random.randint(0, 3)):
        other = some_purpose(random)
        chosen.setdefault(other.name, other)
    tools = [declare(random, one) for one in chosen.values()]
    random.shuffle(tools)
    return tools


def call_tool(random: Random) -> Example:
    """One call; at times two, or none where the question needs no tool."""
    purpose = some_purpose(random)
    tools, chance = offer(random, purpose), random.random()
    if chance < 0.15:
        plain = add_two_digits(random)
        return Example(plain.messages, plain.answer, plain.key, tools)
    arguments = some_arguments(random, purpose)
    text = phrase(random, [random.choice(purpose.asks).format(**arguments)])
    answer = write_call(purpose.name, arguments)
    if chance < 0.25:
        more = some_arguments(random, purpose)
        text += " " + random.choice(["Also: ", "And then: ", "Then "]) + random.choice(purpose.asks).format(**more)
        answer += "\n" + write_call(purpose.name, more)
    return Example([{"role": "user", "content": text}], answer, answer, tools)


def read_calls(text: str) -> list[Any]:
    """The calls in a text. ValueError where there is anything else, or a call has no end."""
    if not text.strip().endswith("</tool_call>"):
        raise ValueError("the text does not end with a tool call")
    parts = text.strip().removesuffix("</tool_call>").split("</tool_call>")
    return [json.loads(part.strip().removeprefix("<tool_call>")) for part in parts]


def is_same_call(example: Example, text: str) -> bool:
    if "<tool_call>" not in example.answer:
        return text.strip() == example.answer
    try:
        return read_calls(text) == read_calls(example.answer)
    except ValueError:
        return False


WEATHER = ["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "stormy", "clear"]


def some_result(random: Random, purpose: Purpose, arguments: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What a tool gave back, and the sentence that says it."""
    if purpose.description == KNOWN[0].description:
        [city] = arguments.values()
        result = {"city": city, "temperature": random.randint(-20, 40), "condition": random.choice(WEATHER)}
        sentence = "The weather in {city} is {condition}, {temperature} degrees.".format(**result)
        return (result if random.random() < 0.5 else {k: v for k, v in result.items() if k != "city"}), sentence
    if random.random() < 0.2:
        problem = random.choice(["not found", "timeout", "no permission", "out of stock", "invalid input"])
        return {"error": problem}, f"That did not work: {problem}."
    key = random.choice(["result", "value", "status", "answer", *THINGS])
    value = random.choice(
        [random.randint(0, 9999), random.choice(WORDS), f"{random.choice(ADJECTIVES)} {random.choice(WORDS)}"]
    )
    return {key: value}, f"The {key} is {value}."


def answer_from_result(random: Random) -> Example:
    is_weather = random.random() < 0.25
    purpose = rename(random, KNOWN[0]) if is_weather else some_purpose(random)
    arguments = some_arguments(random, purpose)
    result, sentence = some_result(random, purpose, arguments)
    ask = random.choice(purpose.asks).format(**arguments)
    # The call is learned here too, so it is this example's key as it is the key of the call alone.
    call = write_call(purpose.name, arguments)
    messages = [
        {"role": "user", "content": ask},
        {"role": "assistant", "content": call},
        {"role": "tool", "content": json.dumps(result)},
    ]
    return Example(messages, sentence, call, offer(random, purpose))


TASKS = {
    "tool_call": Task(call_tool, 5, is_same_call, is_chainable=False),
    "tool_result": Task(answer_from_result, 2, is_chainable=False),
}
