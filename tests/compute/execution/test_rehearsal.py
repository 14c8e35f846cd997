import importlib.util

import pytest

from tests.compute.kernels.test_without_gpu import passes

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton, which the extra `test` has"
)


def test_what_is_made_up_at_start_needs_every_kernel_that_a_step_can_need():
    passes("../execution/rehearsed.py", TRITON_INTERPRET="0")
