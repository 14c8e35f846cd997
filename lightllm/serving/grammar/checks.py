"""A client's questions to the process `grammar`: can this grammar be enforced? Asked before a request is sent."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lightllm.base.errors import Closed, RequestError
from lightllm.base.messages import AnyMessage, Compile, Compiled, Message
from lightllm.base.pages import PageRegion

OnAnswer = Callable[[RequestError | None], None]
_MOST_KNOWN = 1024
_LOST = "the process that enforces grammars was lost; try again"


class Channel(Protocol):
    """What is needed of a socket to the process. Both raise Closed when it is gone."""

    def send(self, message: Message, /) -> None: ...
    def receive(self) -> AnyMessage | None: ...


@dataclass(frozen=True)
class _Question:
    grammar: bytes
    page: int
    on_answer: OnAnswer


class GrammarChecks:
    """`why_never`: why this server enforces no grammar at all; then there is no channel."""

    def __init__(self, pages: PageRegion, channel: Channel | None, *, why_never: str | None = None):
        self._pages, self._channel, self._why_never = pages, channel, why_never
        self._enforceable: OrderedDict[bytes, None] = OrderedDict()
        self._questions: dict[int, _Question] = {}
        self._num_asked = 0

    def ask(self, grammar: bytes, on_answer: OnAnswer) -> None:
        """Calls `on_answer` with why the encoded grammar is refused, or None: at once, or from `take_answers`."""
        if grammar in self._enforceable:
            self._enforceable.move_to_end(grammar)
            on_answer(None)
        elif self._why_never is not None:
            on_answer(RequestError(f"the answer cannot be held to a grammar: {self._why_never}"))
        elif (page := self._pages.store_bytes(grammar)) is None:
            on_answer(RequestError("the prompts of open requests fill the request table; try again later", status=429))
        else:
            self._num_asked += 1
            self._questions[self._num_asked] = _Question(grammar, page, on_answer)
            self._send(Compile(self._num_asked, page, len(grammar)))

    def take_answers(self) -> None:
        """Takes in what the process has sent. Raises Closed after its death."""
        while self._channel is not None and (message := self._channel.receive()) is not None:
            assert isinstance(message, Compiled), "it only answers"
            question = self._questions.pop(message.number)
            self._pages.release(question.page)
            if message.refusal:
                question.on_answer(_refused(message))
                continue
            self._enforceable[question.grammar] = None
            if len(self._enforceable) > _MOST_KNOWN:
                self._enforceable.popitem(last=False)
            question.on_answer(None)

    def reconnect(self, channel: Channel | None) -> None:
        """Another process has taken its place, or none has; what was asked of the one before has no answer."""
        self._channel = channel
        questions, self._questions = self._questions, {}
        for question in questions.values():
            self._pages.release(question.page)
            question.on_answer(RequestError(_LOST, status=503))

    def _send(self, message: Compile) -> None:
        try:
            if self._channel is None:
                raise Closed
            self._channel.send(message)
        except Closed:
            self.reconnect(None)


def _refused(answer: Compiled) -> RequestError:
    if answer.is_ours:
        return RequestError(answer.refusal, status=503)
    return RequestError(f"the answer cannot be held to this grammar: {answer.refusal}")
