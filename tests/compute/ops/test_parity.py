"""Every implementation of every op agrees with the op's reference, on every case it takes."""

import pytest
import torch

from lightllm.compute import kernels
from lightllm.compute.ops.op import ALL, Facts

CPU = torch.device("cpu")
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
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(tensors(got_arguments), tensors(expected_arguments), atol=tolerance, rtol=tolerance)
