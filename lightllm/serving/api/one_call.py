"""Answers that end with their first call of a tool, whatever the model would go on with."""

from dataclasses import replace

from lightllm.base.request import FinishReason
from lightllm.serving.api.chat_parsing import ChatParsing, TokenStarts
from lightllm.serving.parsing.reasoning import Beginning
from lightllm.serving.records import Tokens, Update


class OneCall:
    """Ends one choice where something else would follow its first call.

    Its tokens are given as it becomes certain that they come before that. Its text may go on behind it: who reads it
    with the same `parsing` finds the same end.
    """

    def __init__(self, parsing: ChatParsing, beginning: Beginning, starts: TokenStarts):
        self._parser, self._starts = parsing.new_parser(beginning), starts
        self._held: list[Tokens] = []  # that may come after the end
        self._num_tokens = 0  # given

    def cut(self, update: Update) -> Update:
        """The choice's next update, its last if the answer is known to end here. It must come with its tokens."""
        self._starts.note(update.tokens)
        self._parser.feed(update.text)
        if update.finish_reason is not None:
            self._parser.finish()
        output = self._parser.output
        if output.end is not None:
            due = self._starts.before(output.end)
            update = replace(update, finish_reason=FinishReason.STOP, stop_index=-1, error=None)
        elif update.finish_reason is None:
            due = self._starts.before(output.reader.used)
        else:
            due = update.num_tokens
        return replace(update, tokens=self._given(update.tokens, due), num_tokens=due)

    def _given(self, tokens: Tokens, due: int) -> Tokens:
        """All that are held up to token `due` of the answer; the others are held further."""
        held = Tokens.joined([*self._held, tokens])
        count = due - self._num_tokens
        self._held, self._num_tokens = [held[count:]], due
        return held[:count]
