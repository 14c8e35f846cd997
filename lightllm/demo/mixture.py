"""The stream of training text: tasks by weight, alone or several in one chat, with and without a system turn."""

from collections.abc import Iterator, Mapping
from random import Random

from lightllm.demo.example import Example, Task, draw
from lightllm.demo.layout import END_OF_TEXT, compile_template
from lightllm.demo.tasks import TASKS

SYSTEM_TURNS = [
    "You are a helpful assistant.", "You are a helpful assistant.", "You are a small model.", "Answer briefly.",
    "Be concise.", "You are LightLLM's demo model.", "Answer the question.", "You are an AI assistant.",
    "Be friendly and short.", "You are a careful assistant that gives correct answers.",
]  # fmt: skip


def with_system_turn(random: Random, example: Example) -> Example:
    """The example under one of the usual system turns, unless it has its own."""
    if example.messages[0]["role"] == "system":
        return example
    system = {"role": "system", "content": random.choice(SYSTEM_TURNS)}
    return Example([system, *example.messages], example.answer, example.key, example.tools)


def chain(examples: list[Example]) -> Example:
    """One chat that asks them all, one after the other."""
    *earlier, last = examples
    messages = []
    for example in earlier:
        messages += [*example.messages, {"role": "assistant", "content": example.answer}]
    return Example(messages + last.messages, last.answer, last.key, last.tools)


def sample_chats(random: Random, by_name: Mapping[str, Task] = TASKS) -> Iterator[Example]:
    """Chats without end, from the training side of the split only."""
    tasks = list(by_name.values())
    weights = [task.weight for task in tasks]
    chainable = [task for task in tasks if task.is_chainable]
    chain_weights = [task.weight for task in chainable]
    while True:
        task = random.choices(tasks, weights)[0]
        example = draw(task, random)
        if random.random() < 0.2:
            earlier = random.choices(chainable, chain_weights, k=random.randint(1, 4))
            if example.messages[0]["role"] != "system":
                example = chain([*(draw(one, random) for one in earlier), example])
        if random.random() < 0.2:
            example = with_system_turn(random, example)
        yield example


class Renderer:
    """Turns examples into the text that the model sees."""

    def __init__(self) -> None:
        self.template = compile_template()

    def prompt(self, example: Example) -> str:
        """All up to where the answer begins."""
        return self.template.render(messages=example.messages, tools=example.tools, add_generation_prompt=True)

    def chat(self, example: Example) -> str:
        """Prompt, answer and the end of the turn."""
        answer = {"role": "assistant", "content": example.answer}
        return self.template.render(messages=[*example.messages, answer], tools=example.tools)


def plain_text(random: Random) -> str:
    """An answer without its question, for completions of text that is no chat."""
    example = draw(TASKS[random.choice(["software", "story", "description", "count_up_or_down", "multiples"])], random)
    return example.answer + END_OF_TEXT


def sample_texts(random: Random, tasks: Mapping[str, Task] = TASKS) -> Iterator[str]:
    """Rendered chats, with a few plain texts among them."""
    renderer = Renderer()
    for example in sample_chats(random, tasks):
        yield plain_text(random) if random.random() < 0.03 else renderer.chat(example)
