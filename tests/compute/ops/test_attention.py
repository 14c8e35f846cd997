"""The references of attention, which kernels are tested against, in 16 bits."""

import math

import torch

from lightllm.compute import ops
from lightllm.compute.ops.attention import arguments
from lightllm.compute.ops.op import Facts


def test_reference_in_16_bits_rounds_no_scores():
    """Two keys that score 16 and 16.05, which bfloat16 does not tell apart, so that values count as they should."""
    facts = Facts(torch.device("cpu"), torch.bfloat16)
    _, keys, values, sequences, scale, window = arguments(facts, [1], [2], heads=1, kv_heads=1, dim=16)
    first, second = sequences.slot_table[sequences.row[0], :2].tolist()
    difference = 0.0498046875
    q = torch.zeros(1, 1, 16, dtype=torch.bfloat16)
    q[0, 0, :2] = torch.tensor([4.0, difference]) / scale
    keys.zero_()
    values.zero_()
    keys[[first, second], 0, 0], keys[second, 0, 1] = 4.0, 1.0
    values[first, 0, 0], values[second, 0, 0] = -100.0, 100.0
    found = ops.attend.reference(q, keys, values, sequences, scale, window)[0, 0, 0].item()
    assert abs(found - 100 * math.tanh(difference / 2)) < 0.5
