"""A tiny random Qwen3 on disk, and the config of an engine that runs it."""

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from lightllm.base.config import EngineConfig
from tests.compute.driver import save

VOCABULARY = 101
LONGEST = 128
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LONGEST,
}


def make(directory: Path) -> Qwen3ForCausalLM:
    """Writes the checkpoint; returns transformers' model of it."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, eos_token_id=None, bos_token_id=None)).eval()
    save(model, directory)
    return model


def config(directory: Path, **others: Any) -> EngineConfig:
    values = {"max_total_token_num": 1000, "running_max_req_size": 300, "device": "cpu"}
    return EngineConfig(model_dir=str(directory), **{**values, **others})
