"""What the checkpoint's files say: the architecture, the special tokens and the chat template."""

import json
from dataclasses import asdict, dataclass
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
ROPE_THETA = 100000.0
NORM_EPSILON = 1e-6
INITIALIZER_RANGE = 0.02
CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()


@dataclass(frozen=True)
class Size:
    """What differs between the models that can be trained, by transformers' names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int


# By millions of parameters. Widths are multiples of 128 on 1 and 2 ranks, so block-quantized formats divide them.
SIZES = {
    "7m": Size(256, 512, 8, 8, 2, 64, 8192),
    "60m": Size(768, 2048, 8, 8, 2, 128, 12288),
}


def config_of(size: Size) -> dict[str, object]:
    """The content of config.json."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        **asdict(size),
        "hidden_act": "silu",
        "rms_norm_eps": NORM_EPSILON,
        "rope_theta": ROPE_THETA,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "initializer_range": INITIALIZER_RANGE,
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
    "bos_token": None,
    "eos_token": TURN_END,
    "pad_token": PAD,
    "unk_token": None,
    "add_bos_token": False,
    "clean_up_tokenization_spaces": False,
    "chat_template": CHAT_TEMPLATE,
}


def write_configs(folder: Path, size: Size) -> None:
    """Write every file of a checkpoint but the weights and tokenizer.json."""
    files = {
        "config.json": config_of(size),
        "generation_config.json": GENERATION_CONFIG,
        "tokenizer_config.json": {**TOKENIZER_CONFIG, "model_max_length": size.max_position_embeddings},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def compile_template() -> jinja2.Template:
    """The chat template in a sandbox with the settings and the `tojson` that transformers gives it."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(CHAT_TEMPLATE)
