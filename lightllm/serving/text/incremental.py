"""Token ids to text, one at a time. Text given never changes, and all of it is what decoding all ids at once gives.

Why not tokenizers' DecodeStream: it has no flush, so text that ends in half a character loses its end, and a broken
run of byte-fallback tokens makes it raise.
"""

import codecs
from collections.abc import Sequence
from typing import Protocol

from tokenizers import Tokenizer, decoders

from lightllm.serving.text.token_bytes import byte_level_bytes


class Decoder(Protocol):
    """Decodes the output of one request."""

    def step(self, token: int) -> str:
        """The text that is certain after this token; '' while it may still change."""
        ...

    def flush(self) -> str:
        """The rest, when no token follows."""
        ...


class Decoders:
    """Makes decoders for one tokenizer, of the kind that suits it."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(token for token, about in added.items() if about.special)
        self._is_byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
        self._byte_tokens = _byte_fallback_tokens(tokenizer)
        # By the tokens that are skipped, shared by all requests.
        self._bytes: dict[frozenset[int], _TokenBytes] = {}
        self._with_text: dict[frozenset[int], frozenset[int]] = {}

    def new(self, *, skip_special_tokens: bool, shown: Sequence[int] = (), prompt_end: Sequence[int] = ()) -> Decoder:
        """A decoder for output that follows a prompt with these last ids; some 50 suffice.

        `shown` are special tokens that are not skipped.
        """
        skipped = self._special.difference(shown) if skip_special_tokens else frozenset()
        if self._is_byte_level:
            if skipped not in self._bytes:
                self._bytes[skipped] = _TokenBytes(self._tokenizer, skipped)
            return ByteLevelDecoder(self._bytes[skipped])
        if skipped not in self._with_text:
            self._with_text[skipped] = frozenset(self._tokenizer.get_vocab().values()) - skipped
        return ContextDecoder(self._tokenizer, self._with_text[skipped], self._byte_tokens, prompt_end)


class NoText:
    """Decoder of an engine without a tokenizer."""

    def step(self, token: int) -> str:
        return ""

    def flush(self) -> str:
        return ""


class ByteLevelDecoder:
    """For byte-level BPE, where each token is a fixed run of bytes."""

    def __init__(self, token_bytes: dict[int, bytes]):
        self._token_bytes = token_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def step(self, token: int) -> str:
        return self._decode(self._token_bytes[token])

    def flush(self) -> str:
        return self._decode(b"", True)


class ContextDecoder:
    """For all other tokenizers, where a token's text depends on its neighbours: the difference that new ids make.

    A run of byte-fallback tokens is held until it ends, because one broken byte changes the text of the whole run.
    """

    _CONTEXT = 4  # ids; one with text would do, but some have none

    def __init__(
        self, tokenizer: Tokenizer, with_text: frozenset[int], byte_tokens: frozenset[int], prompt_end: Sequence[int]
    ):
        self._decode = tokenizer.decode
        self._with_text, self._byte_tokens = with_text, byte_tokens
        self._context = [token for token in prompt_end if token in with_text]
        while self._context and self._context[-1] in byte_tokens:
            self._context.pop()  # half a character of the prompt is not completed by the output
        self._context = self._context[-self._CONTEXT :]
        self._held: list[int] = []

    def step(self, token: int) -> str:
        if token not in self._with_text:
            return ""
        self._held.append(token)
        return "" if token in self._byte_tokens else self._release(is_end=False)

    def flush(self) -> str:
        return self._release(is_end=True)

    def _release(self, *, is_end: bool) -> str:
        if not self._held:
            return ""
        before = self._decode(self._context, skip_special_tokens=False)
        after = self._decode(self._context + self._held, skip_special_tokens=False)
        if after.endswith("\ufffd") and not is_end:
            return ""
        self._context = (self._context + self._held)[-self._CONTEXT :]
        while self._context and self._context[0] in self._byte_tokens:
            self._context.pop(0)  # part of a run decodes differently from all of it
        self._held = []
        return after[len(before) :]


class _TokenBytes(dict[int, bytes]):
    """The bytes of each token of a byte-level tokenizer; none for `skipped` and unknown ids. Filled as they are met."""

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]):
        super().__init__()
        self._tokenizer, self._skipped = tokenizer, skipped

    def __missing__(self, token: int) -> bytes:
        text = self._tokenizer.id_to_token(token) if token >= 0 and token not in self._skipped else None
        if text is None:
            return b""
        self[token] = byte_level_bytes(text)
        return self[token]


def _byte_fallback_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    ids = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(token for token in ids if token is not None)
