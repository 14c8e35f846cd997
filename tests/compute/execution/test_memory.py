import math

import pytest
import torch

from lightllm.base.config import EngineConfig
from lightllm.base.errors import ConfigError
from lightllm.compute.execution import memory

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000000\n", "memory.current": "700000\n", "memory.stat": "anon 5\nfile 200000\n"},
        {
            "memory/memory.limit_in_bytes": "1000000\n",
            "memory/memory.usage_in_bytes": "700000\n",
            "memory/memory.stat": "cache 9\ntotal_cache 200000\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_a_container_limits_what_is_available(files, tmp_path, monkeypatch):
    whole = memory.available(CPU)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available(CPU) == 500_000 < whole


def test_an_unlimited_container_limits_nothing(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available(CPU) > 1 << 20


def pool(room, *, given=None, most=10_000, cap=math.inf):
    return memory.pool_tokens(EngineConfig(max_total_token_num=given), room=room, per_token=100, most=most, cap=cap)


def test_the_pool_takes_the_room_there_is_up_to_what_can_be_used():
    assert pool(54_321) == 543
    assert pool(54_321, cap=20_000) == 200
    assert pool(54_321, most=50) == 50
    assert pool(54_321, given=543, most=50, cap=1) == 543


def test_a_pool_without_room_is_refused():
    with pytest.raises(ConfigError, match=r"--max_total_token_num=544 needs .* use at most 543,"):
        pool(54_321, given=544)
    with pytest.raises(ConfigError, match="leaves no room for a KV pool"):
        pool(-5.0)


def test_running_out_of_memory_is_explained_and_other_errors_are_not():
    with (
        pytest.raises(ConfigError, match="out of memory while testing; use less"),
        memory.explained("testing", "use less"),
    ):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="other"), memory.explained("testing", "use less"):
        raise RuntimeError("other")
