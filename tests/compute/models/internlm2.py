"""Writes what a Llama checkpoint holds as an InternLM2 checkpoint."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "input_layernorm": "attention_norm",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "lm_head": "output",
}


def write(llama: Path, directory: Path, *, extra: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """extra: further tensors; changes: of config.json."""
    raw = json.loads((llama / "config.json").read_text())
    kv_heads = raw["num_key_value_heads"]
    stored, tensors = load_file(llama / "model.safetensors"), dict(extra or {})
    for name, tensor in stored.items():
        if "self_attn.q_proj" in name:
            # [heads, dim, ...] for each of q, k and v; a kv head's queries, then its key and its value.
            parts = [stored[name.replace("q_proj", one)].unflatten(0, (kv_heads, -1)) for one in
                     ("q_proj", "k_proj", "v_proj")]  # fmt: skip
            wqkv = torch.cat(parts, dim=1).flatten(0, 1).contiguous()
            tensors[name.replace("self_attn.q_proj", "attention.wqkv")] = wqkv
        elif not any(f"self_attn.{one}" in name for one in ("k_proj", "v_proj")):
            for ours, theirs in NAMES.items():
                name = name.replace(ours, theirs)
            tensors[name] = tensor
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    raw |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": raw["attention_bias"]}
    (directory / "config.json").write_text(json.dumps(raw | changes))
    return directory
