"""One request's output: which of its tokens count, their text, and where and why it ends."""

from lightllm.base.request import FinishReason
from lightllm.base.request_table import Options
from lightllm.serving.text.incremental import Decoder
from lightllm.serving.text.stop_strings import StopStrings


class Answer:
    """Takes tokens in order. The first of eos, stop token, stop string and length ends it; what follows is dropped."""

    __slots__ = ("_decoder", "_min_tokens", "_options", "_stop_strings", "_stop_tokens", "finish", "num_tokens", "stop")

    def __init__(self, decoder: Decoder, options: Options, min_tokens: int):
        self._decoder, self._options, self._min_tokens = decoder, options, min_tokens
        self._stop_tokens = frozenset(options.stop_token_ids)
        self._stop_strings = StopStrings(options.stop, include_match=options.include_stop) if options.stop else None
        self.num_tokens = 0  # that count, the one that ended the answer included
        self.finish = FinishReason.NONE
        self.stop = -1  # what ended it: index into the stop strings, then the stop tokens

    @property
    def ended_by_string(self) -> bool:
        """Whether a stop string ended it, which nobody else can know."""
        return 0 <= self.stop < len(self._options.stop)

    def take(self, tokens: list[int], finish: FinishReason) -> str:
        """The text that these tokens add; `finish` says whether and why they are the last ones."""
        pieces = []
        for token in tokens:
            pieces.append(self._take_one(token))
            if self.finish:
                break
        if finish and not self.finish:
            pieces.append(self._end("", finish))
        return "".join(pieces)

    def _take_one(self, token: int) -> str:
        self.num_tokens += 1
        if token in self._stop_tokens and self.num_tokens > self._min_tokens:
            # Found here too: the token is seen before the scheduler's word that the request has ended.
            self.stop = len(self._options.stop) + self._options.stop_token_ids.index(token)
            return self._end(self._decoder.step(token) if self._options.include_stop else "", FinishReason.STOP)
        return self._searched(self._decoder.step(token))

    def _searched(self, piece: str) -> str:
        """`piece` without what may belong to a stop string; ends the answer if one is complete."""
        if self._stop_strings is None:
            return piece
        shown = self._stop_strings.feed(piece, may_match=self.num_tokens > self._min_tokens)
        if self._stop_strings.matched >= 0:
            self.stop, self.finish = self._stop_strings.matched, FinishReason.STOP
        return shown

    def _end(self, piece: str, finish: FinishReason) -> str:
        """Ends the answer with `piece` and the text that was held back."""
        self.finish = finish
        shown = self._searched(piece + self._decoder.flush())
        return shown if self._stop_strings is None or self.ended_by_string else shown + self._stop_strings.flush()
