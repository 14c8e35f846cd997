"""What a model writes for itself before it answers, between two tags. Which tags is data: a ReasoningFormat."""

from dataclasses import dataclass, field
from typing import Protocol

from lightllm.base.grammar import AnyText, Either, Grammar, Optional, Tag
from lightllm.serving.parsing.evidence import Evidence
from lightllm.serving.parsing.output import Output
from lightllm.serving.parsing.reader import SPACE, Markers, Steps

Tags = tuple[str, str]  # before the reasoning, after it


@dataclass(frozen=True)
class Beginning:
    """How an answer begins, as its prompt leaves it: inside `tags`, or with an answer and nothing else, or open."""

    tags: Tags | None = None
    is_answer: bool = False


class ReasoningParser(Protocol):
    """How a family of models writes reasoning."""

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]:
        """Names that other servers give it."""
        ...

    @property
    def evidence(self) -> Evidence: ...
    @property
    def markers(self) -> tuple[str, ...]:
        """What must be seen of an answer, special tokens or not."""
        ...

    def beginning(self, prompt: str) -> Beginning:
        """What a prompt that ends like this leaves to say."""
        ...

    def beginning_within(self, answer: str) -> Beginning:
        """The same where an answer is continued that begins like this."""
        ...

    def grammar(self, beginning: Beginning) -> Grammar | None:
        """What comes before the answer itself: the rest of the reasoning that has begun, or some if the model likes."""
        ...

    def as_text(self, grammar: Grammar) -> Grammar:
        """An answer that is text which must look so."""
        ...

    def read(self, out: Output, beginning: Beginning) -> Steps[None]:
        """The beginning of an answer, up to the end of its reasoning."""
        ...


@dataclass(frozen=True)
class ReasoningFormat:
    """A ReasoningParser for tags. `is_implied`: an answer begins with reasoning even where no tag says so."""

    name: str
    tags: tuple[Tags, ...]
    evidence: Evidence = Evidence()
    is_implied: bool = False
    aliases: tuple[str, ...] = ()
    _ends: dict[str, Markers] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", {end: Markers([end]) for _, end in self.tags})

    @property
    def markers(self) -> tuple[str, ...]:
        return tuple(tag for tags in self.tags for tag in tags)

    def beginning(self, prompt: str) -> Beginning:
        prompt = prompt.rstrip(SPACE)
        for start, end in self.tags:
            if prompt.endswith(start):
                return Beginning((start, end))
            if prompt.endswith(end):
                return Beginning(is_answer=True)
        return Beginning(self.tags[0] if self.is_implied else None)

    def beginning_within(self, answer: str) -> Beginning:
        for start, end in self.tags:
            if answer.rfind(start) > answer.rfind(end):
                return Beginning((start, end))
        return Beginning(is_answer=bool(answer.strip()))

    def grammar(self, beginning: Beginning) -> Grammar | None:
        if beginning.is_answer:
            return None
        if beginning.tags is not None:
            return Tag("", AnyText(), beginning.tags[1])
        return Optional(Either([Tag(start, AnyText(), end) for start, end in self.tags]))

    def as_text(self, grammar: Grammar) -> Grammar:
        return grammar

    def read(self, out: Output, beginning: Beginning) -> Steps[None]:
        if beginning.is_answer:
            return
        reader, start, tags = out.reader, out.reader.position, beginning.tags
        yield from reader.space()
        found = yield from reader.skip(*(before for before, _ in self.tags))
        if found:
            tags = next(tags for tags in self.tags if tags[0] == found)
        elif tags is None:
            reader.rewind()
            return
        out.begin_reasoning(start)
        if (yield from reader.until(self._ends[tags[1]], out.reasoning)):
            out.end_reasoning()
