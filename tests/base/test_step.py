from dataclasses import fields

import numpy as np
import pytest

from lightllm.base.step import ROW, StepPlan, StepResult, pack, unpack


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


PLAN = StepPlan(
    step=2**40,
    rows=ints(3, 1),
    starts=ints(10, 0),
    counts=ints(1, 4),
    samples=np.array([True, False]),
    tokens=ints(-1, 5, 6, 7, 8),
    update_rows=ints(1),
    update_starts=ints(0),
    update_counts=ints(4),
    update_slots=ints(9, 8, 7, 6),
    begins=np.array(
        [
            (
                1,
                7,
                3,
                True,
                0,
                4,
                0.5,
                0.9,
                40,
                0.0,
                0.3,
                1.0,
                0.0,
                0.0,
                True,
                9,
                1.5,
                2**64 - 1,
                -1,
                0,
                0,
                4,
                2,
                3,
                3,
                1,
            )
        ],
        dtype=ROW,
    ),
    stop_tokens=ints(),
    words=ints(3, -1, 2**31 - 1),
)
RESULT = StepResult(
    step=7,
    tokens=ints(5, -1),
    logprobs=np.array([-0.5, 0.0], dtype=np.float32),
    top_tokens=np.array([[5, 6, 7], [0, 0, 0]], dtype=np.int32),
    top_logprobs=np.zeros((2, 3), dtype=np.float32),
    seconds=0.25,
    next_was_ready=True,
)


@pytest.mark.parametrize("message", [PLAN, RESULT], ids=["plan", "result"])
def test_what_is_unpacked_is_what_was_packed(message):
    buffer = np.zeros(4096, dtype=np.uint8)
    size = pack(message, buffer)
    assert size <= 4096
    copy = unpack(type(message), buffer)
    buffer[:] = 255  # the copy must not look at it any more
    for field in fields(message):
        before, after = getattr(message, field.name), getattr(copy, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            assert before.shape == after.shape
            assert (before == after).all()
        else:
            assert before == after
            assert type(before) is type(after)


def test_too_long_a_plan_is_refused():
    with pytest.raises(ValueError, match="room for 1200"):
        pack(PLAN, np.zeros(1200, dtype=np.uint8))
