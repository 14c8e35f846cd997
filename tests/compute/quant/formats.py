"""Writes a tiny checkpoint quantized, and beside it the same one dequantized, by formulas of the test's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TILE = (24, 40)  # shares of several ranks begin and end inside tiles, and the last tile of an axis is cut
GROUP = 32
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ: nibble i of a packed number holds output ORDER[i] of eight

Quantize = Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]


def fp8_block(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors that store `weight`, and what they stand for."""
    rows, columns = weight.shape
    tiles = [range(0, size, step) for size, step in zip((rows, columns), TILE, strict=True)]
    scale, stored = torch.empty(len(tiles[0]), len(tiles[1])), torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    for i, top in enumerate(tiles[0]):
        for j, left in enumerate(tiles[1]):
            tile = weight[top : top + TILE[0], left : left + TILE[1]]
            scale[i, j] = tile.abs().max() / 448
            stored[top : top + TILE[0], left : left + TILE[1]] = (tile / scale[i, j]).to(torch.float8_e4m3fn)
    spread = scale.repeat_interleave(TILE[0], 0)[:rows].repeat_interleave(TILE[1], 1)[:, :columns]
    return {f"{module}.weight": stored, f"{module}.weight_scale_inv": scale}, stored.float() * spread


def awq(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors that store `weight`, and what they stand for."""
    group = min(GROUP, weight.shape[1])
    groups = weight.T.unflatten(0, (-1, group))  # [groups, group, outputs]
    low, high = groups.amin(1), groups.amax(1)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales).round().clamp(0, 15)
    values = (groups / scales[:, None] + zeros[:, None]).round().clamp(0, 15)
    meant = ((values - zeros[:, None]) * scales[:, None].float()).flatten(0, 1).T.contiguous()
    stored = {"qweight": _pack(values.flatten(0, 1)), "qzeros": _pack(zeros), "scales": scales}
    return {f"{module}.{suffix}": tensor for suffix, tensor in stored.items()}, meant


def _pack(values: Tensor) -> Tensor:
    eights = values.to(torch.int64).unflatten(-1, (-1, 8))
    packed = torch.zeros(eights.shape[:-1], dtype=torch.int64)
    for nibble, output in enumerate(ORDER):
        packed |= eights[..., output] << (4 * nibble)
    return packed.to(torch.int32)


CONFIGS: dict[str, tuple[Quantize, dict[str, Any]]] = {
    "fp8_block": (
        fp8_block,
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(TILE)},
    ),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}),
}


def write(source: Path, quantized: Path, meant: Path, *, form: str, keep: tuple[str, ...] = ()) -> None:
    """Both versions of the checkpoint in `source`; modules named in `keep` stay as they are."""
    quantize, config = CONFIGS[form]
    stored, plain = {}, {}
    for name, weight in load_file(source / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if "_proj" in module and weight.dim() == 2 and not module.endswith(keep or ("no module",)):
            tensors, plain[name] = quantize(module, weight)
            stored |= tensors
        else:
            stored[name] = plain[name] = weight
    raw = json.loads((source / "config.json").read_text())
    for directory, tensors, extra in (
        (quantized, stored, {"quantization_config": config | {"modules_to_not_convert": list(keep) or None}}),
        (meant, plain, {}),
    ):
        shutil.copytree(source, directory, dirs_exist_ok=True)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(raw | extra))
