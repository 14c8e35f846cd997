"""Traces: what clients will ask, read from files."""

from pathlib import Path

import numpy as np
import pytest

from lightllm.base.errors import ConfigError
from lightllm.simulation import trace


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "recorded.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_requests_come_in_the_order_of_their_times(tmp_path: Path):
    found = trace.read(
        write(
            tmp_path,
            '{"input_length": 30, "output_length": 3, "timestamp": 9000}',
            "",
            '{"input_length": 10, "output_length": 5, "timestamp": 4000, "max_tokens": 7, "more": 1}',
        )
    )
    assert found.prompt.tolist() == [10, 30]
    assert found.output.tolist() == [5, 3]
    assert found.max_tokens.tolist() == [7, 5]
    assert found.arrival is not None
    assert found.arrival.tolist() == [0, 5]


def test_prompts_share_what_their_first_hash_ids_share(tmp_path: Path):
    found = trace.read(
        write(
            tmp_path,
            '{"input_length": 1200, "output_length": 3, "hash_ids": [70, 81, 92]}',
            '{"input_length": 1100, "output_length": 3, "hash_ids": [70, 81, 93]}',
            '{"input_length": 600, "output_length": 3}',
        )
    )
    first, second, third = (found.prompt_tokens(number) for number in range(3))
    assert [len(first), len(second), len(third)] == [1200, 1100, 600]
    assert np.flatnonzero(first[:1100] != second)[0] == 1024
    assert first[0] != third[0]
    scaled = found.scaled(8)
    assert np.flatnonzero(scaled.prompt_tokens(0)[:138] != scaled.prompt_tokens(1))[0] == 128


def test_prompts_without_hash_ids_share_nothing(tmp_path: Path):
    found = trace.read(write(tmp_path, *['{"input_length": 5, "output_length": 3}'] * 2))
    assert found.arrival is None
    assert found.prompt_tokens(0)[0] != found.prompt_tokens(1)[0]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "has no requests"),
        (["{}"], "line 1: .*input_length"),
        (['{"input_length": 0, "output_length": 3}'], "line 1: lengths are at least 1"),
        (
            ['{"input_length": 1, "output_length": 3}', '{"input_length": 1, "output_length": 3, "timestamp": 1}'],
            "on all or on none",
        ),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, lines: list[str], reason: str):
    with pytest.raises(ConfigError, match=reason):
        trace.read(write(tmp_path, *lines))
