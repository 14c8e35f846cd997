import os

import pytest

from lightllm.base.config import EngineConfig
from lightllm.processes.ipc.awake import available_cores, seconds

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, AFFINITY),
        ({"cpu.max": "max 100000\n"}, AFFINITY),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": f"{(AFFINITY + 1) * 100000} 100000\n"}, AFFINITY),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, AFFINITY),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
    ],
)
def test_a_quota_counts_as_fewer_cores(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cores(tmp_path) == expected


def test_nobody_looks_where_that_takes_cores_from_those_who_work():
    assert seconds(EngineConfig(), is_on_gpu=True, cores=8) > 0
    assert seconds(EngineConfig(), is_on_gpu=True, cores=7.9) == 0
    assert seconds(EngineConfig(tp=8), is_on_gpu=True, cores=21) == 0
    assert seconds(EngineConfig(), is_on_gpu=False, cores=64) == 0


def test_what_is_asked_for_is_done():
    assert seconds(EngineConfig(awake_s=0.0), is_on_gpu=True, cores=64) == 0
    assert seconds(EngineConfig(awake_s=0.5), is_on_gpu=False, cores=1) == 0.5
