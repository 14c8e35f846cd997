"""What each token stands for, in bytes: of a byte-level BPE, a BPE with byte fallback, or any other tokenizer."""

import json
import re

from tokenizers import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes(dict[int, bytes]):
    """Filled as tokens are met; ids outside the vocabulary stand for nothing."""

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        self._tokenizer = tokenizer
        steps = _decoder_steps(tokenizer)
        self._is_byte_level = "ByteLevel" in steps
        self._has_byte_fallback = "ByteFallback" in steps
        self._space = "\u2581" if {"Metaspace", "Replace"} & steps else None

    def __missing__(self, token: int) -> bytes:
        piece = self._tokenizer.id_to_token(token) if token >= 0 else None
        if piece is None:
            return b""
        self[token] = self._of_piece(piece)
        return self[token]

    def _of_piece(self, piece: str) -> bytes:
        if self._is_byte_level:
            return byte_level_bytes(piece)
        if self._has_byte_fallback and (byte := _BYTE_TOKEN.fullmatch(piece)):
            return bytes.fromhex(byte[1])
        return (piece.replace(self._space, " ") if self._space else piece).encode()


def byte_level_bytes(piece: str) -> bytes:
    """The bytes that a piece of a byte-level vocabulary stands for."""
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in piece)
    except KeyError:  # an added token, which stands for itself
        return piece.encode()


def _decoder_steps(tokenizer: Tokenizer) -> set[str]:
    decoder = json.loads(tokenizer.to_str())["decoder"] or {}
    return {step["type"] for step in decoder.get("decoders", [decoder]) if "type" in step}


def _byte_of_character() -> dict[str, int]:
    """The alphabet in which byte-level BPE writes bytes. Source: the GPT-2 encoder's bytes_to_unicode."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()
