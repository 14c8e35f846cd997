"""The tasks that the model learns, by name: one file per family, each a few small functions."""

from lightllm.demo.example import Task
from lightllm.demo.tasks import arithmetic, copying, extraction, lists, lookup, memory, software, stories, tools, units

TASKS: dict[str, Task] = {
    name: task
    for family in (software, arithmetic, units, lists, copying, extraction, lookup, tools, memory, stories)
    for name, task in family.TASKS.items()
}


def tasks_within(context: int) -> dict[str, Task]:
    """The tasks of a model of that many tokens: long contexts get documents of their own."""
    return TASKS | lookup.VERY_LONG if context > lookup.LONGEST_TOKENS else TASKS
