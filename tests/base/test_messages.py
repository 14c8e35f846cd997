import inspect
from typing import get_args

import numpy as np

from lightllm.base import messages


def test_every_message_can_be_received():
    defined = {
        kind
        for _, kind in inspect.getmembers(messages, inspect.isclass)
        if issubclass(kind, messages.Message) and kind is not messages.Message
    }
    assert defined == set(get_args(messages.AnyMessage))


def test_references_travel_as_bytes():
    data = messages.references(np.array([3, 70000]), np.array([2**32 - 1, 1]))
    assert messages.parse_references(data).tolist() == [[3, 2**32 - 1], [70000, 1]]
    assert len(messages.parse_references(b"")) == 0
