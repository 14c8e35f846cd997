"""Random prompts of an exact number of tokens, as token ids or as text.

Text is made of words that are one token each wherever they stand, so its length is exact by construction; it is
encoded once more to be sure of it.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from lightllm.base.checkpoint_files import read_json, vocab_size
from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.bench.options import DatasetOptions
from lightllm.serving.text.tokenizer import TextTokenizer, load_tokenizer

_WORD = re.compile("[Ġ▁]([A-Za-z]+)")  # how byte-level and sentencepiece vocabularies write a space and letters
_FEWEST_WORDS = 100
_MOST_WORDS = 4000  # more make no difference to a benchmark and cost time to check

Prompt = str | list[int]


class TextPrompts:
    """Words of a tokenizer."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str], *, added: int):
        """added: tokens that the server puts before a prompt."""
        self._tokenizer, self._words, self._added = tokenizer, words, added

    @classmethod
    def load(cls, directory: Path) -> "TextPrompts":
        """Raises ConfigError for a directory without a tokenizer, or one whose words are not tokens."""
        tokenizer = TextTokenizer.load(EngineConfig(model_dir=str(directory)))
        assert tokenizer is not None, "tokenizer_mode is auto"
        raw = _tokenizer(directory)
        words = _words(raw)
        if len(words) < _FEWEST_WORDS:
            raise ConfigError(f"{directory}: hardly any token is a word of its own; use --prompt_form=ids")
        return cls(raw, words, added=len(tokenizer.encode(words[0], add_special_tokens=True)) - 1)

    def make(self, draw: random.Random, tokens: int, *, begins: bool = True) -> str:
        """A text of `tokens` tokens as a server counts them, bos included where the prompt begins with this."""
        return "".join(draw.choices(self._words, k=max(1, tokens - self._added * begins)))

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each of these prompts, bos included."""
        return [len(one.ids) + self._added for one in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


class IdPrompts:
    """Some of these token ids."""

    def __init__(self, ids: Sequence[int]):
        self._ids = ids

    @classmethod
    def load(cls, directory: Path) -> "IdPrompts":
        """Of the tokenizer, none of them special; of the model's whole vocabulary where there is no tokenizer."""
        if not (directory / "tokenizer.json").is_file():
            return cls(range(vocab_size(read_json(directory, "config.json", required=True))))
        tokenizer = _tokenizer(directory)
        special = {token for token, about in tokenizer.get_added_tokens_decoder().items() if about.special}
        return cls(sorted(set(tokenizer.get_vocab().values()) - special))

    def make(self, draw: random.Random, tokens: int, *, begins: bool = True) -> list[int]:
        return draw.choices(self._ids, k=tokens)

    def counts(self, prompts: Sequence[list[int]]) -> list[int]:
        return list(map(len, prompts))


Prompts = TextPrompts | IdPrompts


def load(options: DatasetOptions, directory: Path | None) -> Prompts:
    """`directory`: a checkpoint's, or one that has its tokenizer. Raises ConfigError."""
    if directory is None:
        raise ConfigError("which tokenizer the model has is not known; give --tokenizer=DIRECTORY, with tokenizer.json")
    if options.prompt_form == "text" and not (directory / "tokenizer.json").is_file():
        raise ConfigError(f"{directory} has no tokenizer.json; give --tokenizer=DIRECTORY with one")
    return TextPrompts.load(directory) if options.prompt_form == "text" else IdPrompts.load(directory)


def _tokenizer(directory: Path) -> Tokenizer:
    tokenizer = load_tokenizer(EngineConfig(model_dir=str(directory)))
    assert tokenizer is not None, "tokenizer_mode is auto"
    return tokenizer


def _words(tokenizer: Tokenizer) -> list[str]:
    """Texts of a space and letters that are one token, after others of their kind too."""
    named = sorted(
        (token, f" {match[1]}") for name, token in tokenizer.get_vocab().items() if (match := _WORD.fullmatch(name))
    )
    chosen = named if len(named) <= _MOST_WORDS else random.Random(0).sample(named, _MOST_WORDS)
    encoded = tokenizer.encode_batch([word * 2 for _, word in chosen], add_special_tokens=False)
    return [word for (token, word), twice in zip(chosen, encoded, strict=True) if twice.ids == [token, token]]
