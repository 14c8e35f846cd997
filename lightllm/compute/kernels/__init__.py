"""How ops are computed fast. Nothing above imports these modules: `load` registers them, once per process."""

import contextlib
import importlib

from lightllm.compute.ops.op import ALL, Choice, Facts

_EVERYWHERE = ["lightllm.compute.kernels.torch_native"]
_CPU = ("attention", "experts", "kv_formats", "rope", "sampling")
_TRITON = (
    "activation",
    "attention",
    "attention_latent",
    "attention_quantized",
    "awq",
    "biases",
    "embedding",
    "experts",
    "fp6",
    "fp8_block",
    "linear",
    "masks",
    "matvec_int4",
    "matvec_joined",
    "norm",
    "penalties",
    "per_channel",
    "rope",
    "rope_quantized",
    "routing",
    "sampling",
    "step",
    "typical",
)
MODULES = {
    "cpu": [f"lightllm.compute.kernels.cpu.{name}" for name in _CPU] + _EVERYWHERE,
    "cuda": [f"lightllm.compute.kernels.triton.{name}" for name in _TRITON] + _EVERYWHERE,
}


def load(facts: Facts, *, allow_reference: bool = True) -> list[Choice]:
    """Register what this kind of device has and choose, for every op, what will run. Says what was chosen and why.

    Unless references are allowed, an op that has nothing else on a GPU raises ConfigError when it is called.
    """
    for module in MODULES.get(facts.device.type, []):
        importlib.import_module(module)
    return [op.choose(facts, allow_reference=allow_reference or facts.device.type == "cpu") for op in ALL.values()]


def load_all(facts: Facts) -> list[Choice]:
    """As `load`, registering what there is for other devices too, so that each can say why it is not chosen."""
    for module in [module for modules in MODULES.values() for module in modules]:
        with contextlib.suppress(ModuleNotFoundError):  # of Triton, which only GPUs need
            importlib.import_module(module)
    return load(facts)
