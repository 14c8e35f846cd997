"""What the fake engine answers: a text that depends on the prompt's length and on the seed."""

from tests.serving.checkpoint_for_tests import END
from tests.serving.text.tokenizers_for_tests import byte_level


def text_for(prompt_tokens: int, seed: int) -> str:
    return f"Größe 世界 👩‍👩‍👧‍👦 {prompt_tokens} tokens, seed {seed}; that is all."


def answer(prompt: list[int], seed: int) -> list[int]:
    tokenizer = byte_level()
    return [*tokenizer.encode(text_for(len(prompt), seed)).ids, tokenizer.token_to_id(END)]


def endless(prompt: list[int], seed: int) -> list[int]:
    return byte_level().encode("on and on, ").ids


def count(text: str) -> int:
    return len(byte_level().encode(text).ids)
