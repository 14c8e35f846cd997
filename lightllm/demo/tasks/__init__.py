"""The tasks that the model learns, by name: one file per family, each a few small functions."""

from lightllm.demo.example import Task
from lightllm.demo.tasks import arithmetic, copying, extraction, lists, lookup, memory, software, stories, tools, units

TASKS: dict[str, Task] = {
    name: task
    for family in (software, arithmetic, units, lists, copying, extraction, lookup, tools, memory, stories)
    for name, task in family.TASKS.items()
}
