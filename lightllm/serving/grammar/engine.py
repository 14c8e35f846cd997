"""What enforces grammars: the interface. An engine is one file beside this one, loaded when the first grammar comes."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from lightllm.base.grammar import Grammar

LONGEST_S = 5.0  # that a compilation may take; then its sender is refused


class UnenforceableError(Exception):
    """No mask can enforce this grammar: it is wrong, too large, or says what the engine does not know. Says which."""


class HopelessError(Exception):
    """What a grammar needs does not end; only a new process helps."""


class Matcher(Protocol):
    """One answer on its way through a grammar."""

    def consume(self, token: int) -> bool:
        """Goes on by one token. False: the grammar does not allow it, or became too complex; it stays False.

        An engine may find that out when it is asked for the next mask.
        """
        ...

    def rollback(self, count: int) -> None:
        """Takes the last tokens back: drafts that were not accepted."""
        ...


class Compiled(Protocol):
    """A grammar ready for use, any number of times."""

    num_bytes: int  # of memory, where an engine has no bound of its own

    def new_matcher(self) -> Matcher: ...


class Engine(Protocol):
    """Compiling and filling let other threads run meanwhile."""

    def compile(self, grammar: Grammar) -> Compiled:
        """Raises UnenforceableError."""
        ...

    def fill(self, matchers: Sequence[Any], lines: Sequence[int], masks: np.ndarray) -> list[bool]:
        """masks[lines[i]]: what matchers[i], one of its own, allows next; where the answer may end, its ends, too.

        masks [lines, words] int32, see base.masks. Returns for each whether it could be said.
        """
        ...
