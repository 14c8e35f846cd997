"""Writes a tiny checkpoint quantized, and beside it the same one dequantized, by formulas of the test's own."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

TILE = (24, 40)  # shares of several ranks begin and end inside tiles, and the last tile of an axis is cut
GROUP = 32
MATRIX = re.compile(r"_proj|\.w[1-3o]$|\.wqkv$")  # modules that are quantized
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # AutoAWQ: nibble i of a packed number holds output ORDER[i] of eight

Quantize = Callable[[str, Tensor], tuple[dict[str, Tensor], Tensor]]


def fp8_block(module: str, weight: Tensor, tile: tuple[int, int] = TILE) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors that store `weight`, and what they stand for."""
    rows, columns = weight.shape
    tiles = [range(0, size, step) for size, step in zip((rows, columns), tile, strict=True)]
    scale, stored = torch.empty(len(tiles[0]), len(tiles[1])), torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
    for i, top in enumerate(tiles[0]):
        for j, left in enumerate(tiles[1]):
            part = weight[top : top + tile[0], left : left + tile[1]]
            scale[i, j] = part.abs().max() / 448
            stored[top : top + tile[0], left : left + tile[1]] = (part / scale[i, j]).to(torch.float8_e4m3fn)
    spread = scale.repeat_interleave(tile[0], 0)[:rows].repeat_interleave(tile[1], 1)[:, :columns]
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


def gptq(module: str, weight: Tensor, *, order: bool = False) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors that store `weight`, and what they stand for. order: inputs lie scattered over the groups."""
    group_of = torch.arange(weight.shape[1]) // GROUP
    if order:
        group_of = group_of[torch.randperm(len(group_of), generator=torch.Generator().manual_seed(0))]
    scales, zeros = [], []
    for number in range(int(group_of.max()) + 1):
        members = weight[:, group_of == number]
        low, high = members.amin(1).clamp(max=-1e-3), members.amax(1)
        scales.append(((high - low) / 15).half())
        zeros.append((-low / scales[-1]).round().clamp(1, 15))
    scale, zero = torch.stack(scales), torch.stack(zeros)  # [groups, outputs]
    values = (weight.T / scale[group_of] + zero[group_of]).round().clamp(0, 15)
    stored = {
        "qweight": in_order(values.T).T.contiguous(),
        "qzeros": in_order(zero - 1),
        "scales": scale,
        "g_idx": group_of.to(torch.int32),
    }
    meant = ((values - zero[group_of]) * scale[group_of].float()).T.contiguous()
    return {f"{module}.{suffix}": tensor for suffix, tensor in stored.items()}, meant


def packed(module: str, weight: Tensor, *, symmetric: bool) -> tuple[dict[str, Tensor], Tensor]:
    """As compressed-tensors packs signed numbers, 8 more than they are. The tensors, and what they stand for."""
    groups = weight.unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = groups.abs().amax(-1, keepdim=True) / 7 if symmetric else (high - low) / 15
    zero = torch.zeros_like(scale) if symmetric else (-8 - low / scale).round().clamp(-8, 7)
    values = (groups / scale + zero).round().clamp(-8, 7)
    stored = {
        "weight_packed": in_order(values.flatten(1) + 8),
        "weight_scale": scale.squeeze(-1),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        stored["weight_zero_point"] = in_order(zero.squeeze(-1).T + 8).T.contiguous()
    return {f"{module}.{suffix}": tensor for suffix, tensor in stored.items()}, ((values - zero) * scale).flatten(1)


def packed_order(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """As packed and symmetric, where inputs lie scattered over the groups."""
    group_of = torch.arange(weight.shape[1]) // GROUP
    group_of = group_of[torch.randperm(len(group_of), generator=torch.Generator().manual_seed(0))]
    scale = torch.stack([weight[:, group_of == one].abs().amax(1) / 7 for one in range(int(group_of.max()) + 1)], 1)
    values = (weight / scale[:, group_of]).round().clamp(-8, 7)
    stored = {
        "weight_packed": in_order(values + 8),
        "weight_scale": scale,
        "weight_g_idx": group_of.to(torch.int32),
        "weight_shape": torch.tensor(weight.shape),
    }
    return {f"{module}.{suffix}": tensor for suffix, tensor in stored.items()}, values * scale[:, group_of]


def fp8_tensor(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = weight.abs().max() / 448
    stored = (weight / scale).to(torch.float8_e4m3fn)
    return {f"{module}.weight": stored, f"{module}.weight_scale": scale}, stored.float() * scale


def fp8_channel(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 448
    stored = (weight / scale).to(torch.float8_e4m3fn)
    return {f"{module}.weight": stored, f"{module}.weight_scale": scale}, stored.float() * scale


def int8_channel(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    stored = (weight / scale).round().to(torch.int8)
    return {f"{module}.weight": stored, f"{module}.weight_scale": scale}, stored.float() * scale


def fp6(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What our own 6-bit floats stand for: the nearest of all that there are."""
    small = [m / 16 for m in range(4)]
    sizes = torch.tensor(small + [(4 + m) * 2.0**e for e in range(-4, 3) for m in range(4)])
    assert len(sizes) == 32
    assert sizes[-1] == 28
    scale = weight.abs().amax(1, keepdim=True) / sizes[-1]
    nearest = ((weight / scale).abs().unsqueeze(-1) - sizes).abs().argmin(-1)
    return {}, sizes[nearest] * weight.sign() * scale


def int4_made(module: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What our own 4-bit numbers in groups stand for; groups that contain no zero are widened to it."""
    groups = torch.nn.functional.pad(weight, (0, -weight.shape[1] % GROUP)).unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 15
    zero = (-low / scale).round()
    meant = (((groups / scale).round() + zero).clamp(0, 15) - zero) * scale
    return {}, meant.flatten(1)[:, : weight.shape[1]].contiguous()


def in_order(values: Tensor) -> Tensor:
    """[n, m] -> [n, m / 8] int32, the first of eight in the lowest bits; missing ones are 0."""
    eights = torch.nn.functional.pad(values, (0, -values.shape[1] % 8)).to(torch.int64).unflatten(-1, (-1, 8))
    return sum(eights[..., i] << (4 * i) for i in range(8)).to(torch.int32)


def compressed(form: str, weights: dict[str, Any], *, activations: bool) -> dict[str, Any]:
    """A config as compressed-tensors writes it."""
    weights = {"symmetric": True, "dynamic": False, "group_size": None, "actorder": None} | weights
    rounded = {"num_bits": 8, "type": weights["type"], "symmetric": True, "strategy": "token", "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": rounded if activations else None,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "output", "re:.*mlp.gate$"],
        "kv_cache_scheme": None,
    }


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": False, "checkpoint_format": "gptq"}
PACKED = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}
CONFIGS: dict[str, tuple[Quantize, dict[str, Any]]] = {
    "fp8_block": (
        fp8_block,
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(TILE)},
    ),
    "fp8_tensor": (fp8_tensor, {"quant_method": "fp8", "activation_scheme": "dynamic"}),
    "fp8_channel": (
        fp8_channel,
        compressed("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}, activations=True),
    ),
    "int8_channel": (
        int8_channel,
        compressed("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}, activations=True),
    ),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", "zero_point": True}),
    "gptq": (gptq, GPTQ | {"desc_act": False}),
    "gptq_order": (partial(gptq, order=True), GPTQ | {"desc_act": True}),
    "packed": (partial(packed, symmetric=True), compressed("pack-quantized", PACKED, activations=False)),
    "packed_order": (
        packed_order,
        compressed("pack-quantized", PACKED | {"actorder": "group"}, activations=False),
    ),
    "packed_zeros": (
        partial(packed, symmetric=False),
        compressed("pack-quantized", PACKED | {"symmetric": False}, activations=False),
    ),
}


def write(source: Path, quantized: Path, meant: Path, *, form: str, keep: tuple[str, ...] = ()) -> None:
    """Both versions of the checkpoint in `source`; modules named in `keep` stay as they are."""
    quantize, config = CONFIGS[form]
    write_as(source, quantized, meant, quantize, config | _left_alone(config, keep), keep)


def write_as(
    source: Path, quantized: Path, meant: Path, quantize: Quantize, config: dict[str, Any], keep: tuple[str, ...] = ()
) -> None:
    stored, plain = {}, {}
    for name, weight in load_file(source / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if MATRIX.search(module) and weight.dim() == 2 and not module.endswith(keep or ("no module",)):
            tensors, plain[name] = quantize(module, weight)
            stored |= tensors
        else:
            stored[name] = plain[name] = weight
    raw = json.loads((source / "config.json").read_text())
    for directory, tensors, extra in (
        (quantized, stored, {"quantization_config": config}),
        (meant, plain, {}),
    ):
        shutil.copytree(source, directory, dirs_exist_ok=True)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(raw | extra))


def _left_alone(config: dict[str, Any], keep: tuple[str, ...]) -> dict[str, Any]:
    """How a config says so."""
    if "ignore" in config:
        return {"ignore": [*config["ignore"], *(f"re:.*{name}$" for name in keep)]}
    return {"modules_to_not_convert": list(keep) or None}
