"""The engines with the bundled model's tokenizer."""

from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from tokenizers import Tokenizer

from lightllm.base.config import EngineConfig
from lightllm.base.grammar import Grammar
from lightllm.base.masks import words_of
from lightllm.demo import MODEL_DIR
from lightllm.serving.grammar import choice
from lightllm.serving.grammar.engine import Engine

VOCAB, END = 4096, 2
needs_xgrammar = pytest.mark.skipif(find_spec("xgrammar") is None, reason="xgrammar is not installed")
MODES = ["llguidance", pytest.param("xgrammar", marks=needs_xgrammar)]
every_engine = pytest.mark.parametrize("mode", MODES)


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(f"{MODEL_DIR}/tokenizer.json")


@cache
def engine(mode: str = "llguidance") -> Engine:
    return choice.load(EngineConfig(model_dir=str(MODEL_DIR), output_constraint_mode=mode))  # type: ignore[arg-type]


def allowed(mask: np.ndarray) -> np.ndarray:
    """Tokens that a mask [words] allows."""
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def follows(grammar: Grammar, text: str, mode: str = "llguidance") -> bool:
    """Whether `text` can be written token by token, each in the mask before it, and the answer can end there."""
    matcher, masks = engine(mode).compile(grammar).new_matcher(), np.zeros((2, words_of(VOCAB)), np.int32)
    for token in [*tokenizer().encode(text, add_special_tokens=False).ids, END]:
        assert engine(mode).fill([matcher], [1], masks) == [True]
        assert not masks[0].any(), "other lines are left alone"
        if token not in allowed(masks[1]):
            return False
        assert matcher.consume(token)
    return True
