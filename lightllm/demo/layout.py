"""What the checkpoint's files say: the architecture, the special tokens and the chat template."""

import json
from pathlib import Path

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PAD = END_OF_TEXT
SPECIAL_TOKENS = [END_OF_TEXT, TURN_START, TURN_END]
# Single tokens, but text: a parser of tool calls has to see them.
MARKUP_TOKENS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>"]
ASSISTANT_OPENING = f"{TURN_START}assistant\n"

VOCABULARY = 4096
CONTEXT = 8192
CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()

# 6.8 million parameters. 512 and 256 are multiples of 128 on 1 and 2 ranks, so block-quantized formats divide them.
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 100000.0,
    "max_position_embeddings": CONTEXT,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "initializer_range": 0.02,
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "dtype": "bfloat16",
    "use_cache": True,
}

GENERATION_CONFIG = {
    "bos_token_id": None,
    "pad_token_id": 0,
    "eos_token_id": [2, 0],
    "do_sample": False,
}

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": CONTEXT,
    "bos_token": None,
    "eos_token": TURN_END,
    "pad_token": PAD,
    "unk_token": None,
    "add_bos_token": False,
    "clean_up_tokenization_spaces": False,
    "chat_template": CHAT_TEMPLATE,
}


def write_configs(folder: Path) -> None:
    """Write every file of a checkpoint but the weights and tokenizer.json."""
    files = {
        "config.json": CONFIG,
        "generation_config.json": GENERATION_CONFIG,
        "tokenizer_config.json": TOKENIZER_CONFIG,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def compile_template() -> jinja2.Template:
    """The chat template in a sandbox with the settings and the `tojson` that transformers gives it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(CHAT_TEMPLATE)
