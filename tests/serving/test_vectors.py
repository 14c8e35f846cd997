"""What vectors say of texts."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lightllm.base.task import Task
from lightllm.serving import vectors

ONE_LABEL = Task("classify", 1)


@pytest.mark.parametrize("output", [-900.0, -2.0, 0.0, 3.5])
def test_a_classifiers_only_label_becomes_what_its_checkpoint_says(output):
    found = [np.array([output], np.float32)]
    assert vectors.score(ONE_LABEL, found) == pytest.approx(1 / (1 + math.exp(-max(output, -700))))
    assert vectors.score(replace(ONE_LABEL, activation="Identity"), found) == output
    assert vectors.score(replace(ONE_LABEL, activation="Tanh"), found) == pytest.approx(math.tanh(output))
