"""Text to token ids, with the tokenizer of a checkpoint."""

import bisect
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lightllm.base.checkpoint_files import read_json
from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError, RequestError
from lightllm.serving.text.token_bytes import TokenBytes

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_tokenizer(config: EngineConfig) -> Tokenizer | None:
    """The checkpoint's tokenizer.json, or None with --tokenizer_mode=none. Raises ConfigError."""
    if config.tokenizer_mode == "none":
        return None
    path = Path(config.model_dir) / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(_no_tokenizer(path.parent))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{path} is not a tokenizer: {error}; restore it from the checkpoint's source") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _no_tokenizer(folder: Path) -> str:
    if (folder / "tokenizer.model").is_file():
        # A tokenizer that comes with code of its own, which is not ours to run.
        trusting = read_json(folder, "tokenizer_config.json", required=False).get("auto_map")
        given = f"{str(folder)!r}{', trust_remote_code=True' if trusting else ''}"
        return (
            f"--model_dir={folder} has tokenizer.model but no tokenizer.json; convert it once with transformers: "
            f"AutoTokenizer.from_pretrained({given}).save_pretrained({str(folder)!r}), "
            "or serve token ids with --tokenizer_mode=none"
        )
    return f"--model_dir={folder} has no tokenizer.json; add it, or serve token ids with --tokenizer_mode=none"


class TextTokenizer:
    """Encodes prompts and names tokens. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, tokenizer_config: dict[str, Any]):
        """`tokenizer_config` is the content of tokenizer_config.json, {} if there is none."""
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token: about.content for token, about in added.items() if about.special}
        self.special_tokens = {name: _content(tokenizer_config[name]) for name in _NAMED if tokenizer_config.get(name)}
        self._by_bytes: list[tuple[bytes, int]] | None = None  # sorted, once it is needed
        self._prefix = self._missing_bos(tokenizer_config)

    @classmethod
    def load(cls, config: EngineConfig) -> "TextTokenizer | None":
        """As `load_tokenizer`."""
        tokenizer = load_tokenizer(config)
        if tokenizer is None:
            return None
        named = read_json(config.model_dir, "special_tokens_map.json", required=False)
        return cls(tokenizer, named | read_json(config.model_dir, "tokenizer_config.json", required=False))

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids; `add_special_tokens` puts what the checkpoint wants at the beginning of a text, such as bos."""
        try:
            # Unlike `encode` this lets other threads run meanwhile, and it does not compute offsets.
            ids = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        except (UnicodeEncodeError, TypeError):  # a str that no UTF-8 can say
            raise RequestError("the text holds half a surrogate pair, which is no character", param="prompt") from None
        return self._prefix + ids if add_special_tokens else ids

    def ways_to_write(self, word: str) -> list[list[int]]:
        """Token ids of a word at the beginning of a text, and after a space where they are others."""
        word = word.lstrip(" ") or word
        ways = [self.encode(space + word, add_special_tokens=False) for space in ("", " ")]
        return ways[:1] if ways[0] == ways[1] else ways

    def encode_pair(self, left: str, right: str) -> list[int]:
        """Token ids of two texts, put together as the checkpoint does it."""
        try:
            return self._tokenizer.encode_batch_fast([(left, right)], add_special_tokens=True)[0].ids
        except (UnicodeEncodeError, TypeError):
            raise RequestError("the text holds half a surrogate pair, which is no character", param="prompt") from None

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to the text."""
        return self._token_bytes[token]

    def token_text(self, token: int) -> str:
        r"""A token for people: its text, or `bytes:\xe2\x82` where it is only part of a character."""
        try:
            return self._token_bytes[token].decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self._token_bytes[token])

    def beginning_with(self, text: bytes) -> list[int]:
        """Tokens, no special ones, that stand for something that begins with `text`. Takes long the first time."""
        if self._by_bytes is None:
            ids = (token for token in self._tokenizer.get_vocab().values() if token not in self._special)
            self._by_bytes = sorted((self._token_bytes[token], token) for token in ids)
        first = bisect.bisect_left(self._by_bytes, (text, -1))
        following = itertools.islice(self._by_bytes, first, None)
        return [token for _, token in itertools.takewhile(lambda pair: pair[0].startswith(text), following)]

    def is_special(self, token: int) -> bool:
        return token in self._special

    def special_tokens_in(self, texts: Iterable[str]) -> list[int]:
        """Special tokens of which any of these texts is made."""
        together = "\n".join(texts)
        return [token for token, content in self._special.items() if content in together]

    def _missing_bos(self, tokenizer_config: dict[str, Any]) -> list[int]:
        """The bos token, where the checkpoint asks for it but its tokenizer.json does not add it, as DeepSeek's."""
        bos = self._tokenizer.token_to_id(self.special_tokens.get("bos_token", ""))
        if bos is None or tokenizer_config.get("add_bos_token") is not True:
            return []
        return [] if self._tokenizer.encode("a").ids[:1] == [bos] else [bos]


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]
