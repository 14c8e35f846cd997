"""Answers as models write them, per format, and what they say. Keys of the lists are what each sample shows."""

from dataclasses import dataclass
from typing import Any

Call = tuple[str, Any]  # name; arguments as text, or as what JSON they are


@dataclass(frozen=True)
class Sample:
    """`calls` have arguments as text where the text itself is what matters."""

    text: str
    calls: tuple[Call, ...] = ()
    content: str = ""
    reasoning: str = ""
