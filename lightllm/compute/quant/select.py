"""Which method stores each matrix: as the checkpoint's own `quantization_config` says, or as it is asked for."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from lightllm.base import quantization
from lightllm.base.errors import ConfigError
from lightllm.compute.quant import compressed_tensors, made
from lightllm.compute.quant.awq import Awq
from lightllm.compute.quant.fp8_block import Fp8Block
from lightllm.compute.quant.gptq import Gptq
from lightllm.compute.quant.method import LinearMethod
from lightllm.compute.quant.none import Unquantized
from lightllm.compute.quant.per_channel import PerChannel

HEAD = "lm_head"
HEADS = (HEAD, "output")  # what output heads are called
NEGATIVE = "-:"  # how expressions of GPTQ's `dynamic` begin that name modules to be left alone


def method_for(
    quantization_config: Mapping[str, Any] | None, *, quant_type: str = "none", quant_cfg: str = ""
) -> Callable[[str], LinearMethod]:
    """Module path in the checkpoint -> its method. None: nothing is quantized yet. Raises ConfigError by name.

    A path is left unquantized if the checkpoint says so (see _left_alone). quant_type, quant_cfg: what to make of
    unquantized weights.
    """
    if quantization_config is None:
        return made.Methods(quant_type, quant_cfg)
    if reason := quantization.why_not(quantization_config, quant_type=quant_type, quant_cfg=quant_cfg):
        raise ConfigError(reason)
    try:
        return _read(quantization_config)
    except ConfigError as error:
        raise ConfigError(f"{error}; {quantization.INSTEAD}") from error


def _read(config: Mapping[str, Any]) -> Callable[[str], LinearMethod]:
    plain, kind = Unquantized(), config["quant_method"]
    if kind == quantization.COMPRESSED_TENSORS:
        return compressed_tensors.methods(config, plain)
    method, is_plain = _METHODS[kind](config), _left_alone(config)
    return lambda path: plain if is_plain(path) else method


def _left_alone(config: Mapping[str, Any]) -> Callable[[str], bool]:
    """Module path -> whether it is not quantized, as the checkpoint says.

    It names modules that are not, by one or several components of their paths or by a regular expression that their
    beginnings match; or the ends of all paths that are. The output head is not, unless the checkpoint says that it is.
    """
    excluded = [] if config.get(HEAD) is True else [f".{head}." for head in HEADS]
    expressions = []
    for field in ("modules_to_not_convert", "ignored_layers"):  # as different tools call it
        for entry in _list_of(config, field):
            if _EXPRESSION.search(entry):
                expressions.append(_compiled(field, entry))
            else:
                excluded.append(f".{entry.strip('.')}.")
    for entry in _left_by_gptq(config):
        expressions.append(_compiled("dynamic", entry))
    included = tuple(f".{entry}" for entry in _list_of(config, "modules_in_block_to_quantize"))

    def is_left(path: str) -> bool:
        is_outside = included and path not in HEADS and not f".{path}".endswith(included)
        is_named = any(entry in f".{path}." for entry in excluded)
        return bool(is_outside or is_named or any(expression.match(path) for expression in expressions))

    return is_left


def _left_by_gptq(config: Mapping[str, Any]) -> list[str]:
    """What GPTQModel calls negative matches: expressions for modules that are left alone."""
    dynamic = config.get("dynamic") or {}
    if not isinstance(dynamic, dict) or not all(entry.startswith(NEGATIVE) for entry in dynamic):
        raise ConfigError(
            f"dynamic={dynamic} is not supported by {config['quant_method']}; supported: modules that are left alone "
            f"({NEGATIVE})"
        )
    return [entry.removeprefix(NEGATIVE) for entry in dynamic]


def _list_of(config: Mapping[str, Any], field: str) -> list[str]:
    """A field that is a list of texts, or of lists of them."""
    entries, stated = [], config.get(field) or []
    for entry in stated if isinstance(stated, list) else [None]:
        entries += entry if isinstance(entry, list) else [entry]
    if not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(
            f"{field}={stated} is not supported by {config['quant_method']}; supported: a list of modules"
        )
    return entries


def _compiled(field: str, entry: str) -> re.Pattern[str]:
    try:
        return re.compile(entry)
    except re.error as error:
        raise ConfigError(f"{field} has {entry}, which is no regular expression: {error}") from error


def _fp8(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, "fmt", supported=["e4m3"])
    _only(config, "activation_scheme", supported=["dynamic", "static"])
    match config.get("weight_block_size"):
        case None:
            return PerChannel("fp8", torch.float8_e4m3fn, True, "tensor")
        case [int(rows), int(columns)] if rows > 0 and columns > 0:
            return Fp8Block((rows, columns))
        case size:
            raise ConfigError(f"weight_block_size={size} is not supported by fp8; supported: [rows, columns] or none")


def _awq(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, "bits", "w_bit", supported=[4])
    _only(config, "version", "format", "checkpoint_format", supported=["gemm"])
    _only(config, "zero_point", supported=[True])
    if config.get("backend") == "llm-awq":
        raise ConfigError("backend=llm-awq is not supported by awq; supported: packing as AutoAWQ's gemm")
    return Awq(_group_size(config, "group_size", "q_group_size"))


def _gptq(config: Mapping[str, Any]) -> LinearMethod:
    _only(config, "bits", supported=[4])
    _only(config, "is_marlin_format", supported=[False])
    _only(config, "pack_dtype", supported=["int32"])
    form = _only(config, "checkpoint_format", "format", supported=["gptq", "gptq_v2"])
    order = bool(config.get("desc_act", False))
    return Gptq(_group_size(config, "group_size"), order=order, zero_less=0 if form == "gptq_v2" else 1)


def _group_size(config: Mapping[str, Any], *names: str) -> int:
    """0 for groups as long as the matrix is wide."""
    name, size = _stated(config, *names)
    match size:
        case int() if size > 0:
            return size
        case -1:
            return 0
    method = config["quant_method"]
    raise ConfigError(f"{name}={size} is not supported by {method}; supported: any positive number, -1")


_METHODS: Mapping[str, Callable[[Mapping[str, Any]], LinearMethod]] = {"fp8": _fp8, "awq": _awq, "gptq": _gptq}
_EXPRESSION = re.compile(r"[*+?^$|()\[\]\\]")  # what a regular expression has beyond a path


def _stated(config: Mapping[str, Any], *names: str) -> tuple[str, Any]:
    """The first of these names that says something, and what."""
    return next(((name, config[name]) for name in names if config.get(name) is not None), (names[0], None))


def _only(config: Mapping[str, Any], *names: str, supported: list[Any]) -> str:
    """What a field says, in small letters, or the first of `supported` if nothing. Case does not matter; `names` are
    what different tools call the field. Raises ConfigError if it says anything else."""
    name, stated = _stated(config, *names)
    known = [str(value).lower() for value in supported]
    if stated is None:
        return known[0]
    if str(stated).lower() not in known:
        allowed = ", ".join(map(str, supported))
        raise ConfigError(f"{name}={stated} is not supported by {config['quant_method']}; supported: {allowed}")
    return str(stated).lower()
