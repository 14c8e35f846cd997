"""Every implementation of every op agrees with the op's reference, on every case it takes."""

import pytest
import torch

from lightllm.compute import kernels
from lightllm.compute.ops import kv_formats, per_channel
from lightllm.compute.ops.op import ALL, Facts

CPU = torch.device("cpu")
# ||got - expected|| / ||expected|| where one number in many is rounded to the next one.
LIMITS_OF_POOLS = {torch.float8_e4m3fn: 3e-2, torch.int8: 2e-2, torch.uint8: 0.1}
kernels.load(Facts(CPU, torch.float32))
PAIRS = [
    pytest.param(op, implementation, id=f"{op.name}-{implementation.name}")
    for op in ALL.values()
    for implementation in op.implementations
]


def clone(arguments):
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in arguments]


def tensors(values):
    """Those of 8-bit floats as the bytes that they are."""
    found = [x for x in values if isinstance(x, torch.Tensor)]
    return [x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x for x in found]


def split_pools(values):
    """Pools of fewer bits as what they stand for, of their kinds; and the other values."""
    following = zip(values, [*values[1:], None], strict=True)
    is_pool = [
        isinstance(x, torch.Tensor)
        and x.dtype in kv_formats.KINDS
        and isinstance(scale, torch.Tensor)
        and (scale.dtype, scale.shape) == (torch.float32, x.shape[:-1])
        for x, scale in following
    ]
    pools = [
        (x.dtype, kv_formats.dequantized(x, values[i + 1], torch.float32)) for i, x in enumerate(values) if is_pool[i]
    ]
    return pools, [x for i, x in enumerate(values) if not is_pool[i]]


def meant(name, outcome):
    """Some come in as many parts as an implementation makes, or rounded."""
    if name == "gated_linear_rounded":
        return per_channel.restored(*outcome, torch.float32)
    return outcome.sum(0) if name == "router_logits" or name.endswith("in_parts") else outcome


def results(name, outcome):
    outcome = meant(name, outcome)
    return tensors(outcome if isinstance(outcome, tuple) else (outcome,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("op", "implementation"), PAIRS)
def test_matches_reference(op, implementation, dtype):
    torch.manual_seed(0)
    facts = Facts(CPU, dtype)
    if reason := implementation.why_not(facts):
        pytest.skip(reason)
    for arguments in op.cases(facts):
        expected_arguments, got_arguments = clone(arguments), clone(arguments)
        expected, got = op.reference(*expected_arguments), implementation.function(*got_arguments)
        tolerance = op.tolerance[dtype]
        torch.testing.assert_close(results(op.name, got), results(op.name, expected), atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(tensors(got_arguments), tensors(expected_arguments), atol=tolerance, rtol=tolerance)
