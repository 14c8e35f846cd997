"""The seam between the scheduler and what decides who may run: another way to decide is another class."""

from typing import Protocol

from lightllm.serving.scheduling.running import Running


class Policy(Protocol):
    """Asked about one waiting request after the other."""

    @property
    def allowed(self) -> int:
        """Slots that may be needed."""
        ...

    def needed(self, running: Running, candidate: int, next_tokens: int) -> int:
        """Slots that must be there so that the requests in `running` may run together.

        All of them but the row `candidate` have been given their tokens of the step that is being planned; it is to
        run `next_tokens`.
        """
        ...

    def note_preemption(self) -> None:
        """A request had to give way after all."""
        ...

    def note_end(self) -> None:
        """A request has ended by itself: by a stop token or string, or its maximum."""
        ...
