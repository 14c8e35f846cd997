"""What kernels of this folder ask of a device."""

from lightllm.compute.ops.op import Facts


def why_not(facts: Facts) -> str | None:
    return None if facts.device.type == "cpu" else "is for CPUs"
