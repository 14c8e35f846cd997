"""Training, of a size that takes seconds: what it leaves is a checkpoint that transformers and this package read."""

import shutil
from itertools import islice
from random import Random

import pytest
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from lightllm.demo import MODEL_DIR
from lightllm.demo.batches import load_batches
from lightllm.demo.layout import SIZES, Size
from lightllm.demo.mixture import Renderer
from lightllm.demo.tasks import TASKS, tasks_within
from lightllm.demo.train import read_options, train_and_save


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    """So many are tokenized before the first batch."""
    monkeypatch.setattr("lightllm.demo.batches.POOL_TEXTS", 500)


def test_trains_a_checkpoint_of_the_size_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", Size(32, 64, 2, 2, 1, 16, 512))
    shutil.copy(MODEL_DIR / "tokenizer.json", tmp_path)
    options = read_options(
        f"--out {tmp_path} --size tiny --steps 4 --batch_tokens 1024 --accumulate 1 --workers 0 --samples 0".split()
    )
    log: list[str] = []
    train_and_save(options, log.append)
    assert "loss" in log[1]
    model, loaded = Qwen3ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert (model.config.num_hidden_layers, model.config.max_position_embeddings) == (2, 512)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]


def test_a_longer_context_is_taught_longer_documents(tokenizer):
    longest = 0
    taught = tasks_within(SIZES["60m"].max_position_embeddings)
    assert tasks_within(SIZES["7m"].max_position_embeddings) == TASKS
    for i in range(10):
        example = taught["look_up_very_long"].make(Random(i))
        longest = max(longest, len(tokenizer.encode(Renderer().chat(example)).ids))
    assert 8192 < longest <= SIZES["60m"].max_position_embeddings


def test_no_row_is_longer_than_the_context(tokenizer):
    batches = load_batches(tokenizer, batch_tokens=2048, context=64, seed=0, workers=0)
    assert max(tokens.shape[1] for tokens, _, _ in islice(batches, 20)) == 64
