"""The command: what it is asked for, what it prints and writes."""

import json
from pathlib import Path

import pytest

from lightllm import cli
from lightllm.base.errors import ConfigError
from lightllm.simulation.policies import policy
from lightllm.simulation.settings import SimulationSettings
from lightllm.simulation.sweep import Sweep

SMALL = ["--pool_tokens", "16000", "--scale", "64", "--requests", "30", "--history", "100", "--jobs", "1"]


def test_a_sweep_prints_a_table_and_writes_results(tmp_path: Path, capsys):
    path, plots = tmp_path / "results.json", tmp_path / "plots"
    flags = ["--traces", "decode_heavy", "--loads", "0.5", "1.5", "--seeds", "2", "--json", str(path)]
    chosen = ["--policies", "watermark:watermark=0.9", "oracle", "--plots", str(plots)]
    assert cli.main(["simulate", *flags, *chosen, *SMALL]) == 0
    out = capsys.readouterr().out
    assert "decode_heavy, load 0.5" in out
    assert out.count("| watermark:watermark=0.9 |") == 2
    assert out.count("100.0 %") >= 2
    results = json.loads(path.read_text())
    assert len(results) == 2 * 2 * 2
    assert {one["case"]["seed"] for one in results} == {0, 1}
    assert all(one["answered"] > 0 for one in results)
    assert sorted(file.name for file in plots.iterdir()) == [
        "decode_heavy-load-0.5.svg", "decode_heavy-load-1.5.svg", "decode_heavy.svg",
    ]  # fmt: skip


def test_a_recorded_trace_is_replayed_as_fast_as_it_was_recorded(tmp_path: Path):
    path = tmp_path / "recorded.jsonl"
    lines = [{"input_length": 100, "output_length": 50, "timestamp": 1000 * number} for number in range(30)]
    path.write_text("\n".join(map(json.dumps, lines)))
    settings = SimulationSettings(traces=[str(path)], policies=["watermark"], seeds=1, warm_up=0.0)
    (found,) = [Sweep.of(settings).run_case(case) for case in Sweep.of(settings).cases]
    assert found.seconds == pytest.approx(29, abs=2)
    faster = SimulationSettings(traces=[str(path)], policies=["watermark"], loads=[0.9], seeds=1, warm_up=0.0)
    (found,) = [Sweep.of(faster).run_case(case) for case in Sweep.of(faster).cases]
    assert found.seconds < 20


def test_policies_meet_the_same_requests_at_the_same_times():
    settings = SimulationSettings(
        policies=["conservative", "oracle"], loads=[0.2], seeds=1, requests=40, scale=64, pool_tokens=64_000
    )
    sweep = Sweep.of(settings)
    one, other = (sweep.run_case(case) for case in sweep.cases)
    assert one.answered == other.answered
    assert one.goodput == other.goodput


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"policies": ["greedy"]}, "--admission=greedy"),
        ({"policies": ["watermark:high"]}, "setting 'high' has no value; write NAME=VALUE"),
        ({"settings": ["batch_max_token=5"]}, "unknown setting 'batch_max_token'"),
        ({"loads": [0.5], "clients": [3]}, "exclude one another"),
        ({"loads": [-1.0]}, "above 0"),
        ({"traces": ["nothing"]}, "no workload is called 'nothing'"),
        ({"cost": "/nowhere.json"}, "--cost=/nowhere.json"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(settings: dict, reason: str):
    with pytest.raises(ConfigError, match=reason):
        Sweep.of(SimulationSettings(**settings))


def test_settings_that_count_tokens_are_scaled_too():
    chosen = policy("watermark:watermark=0.5", ["batch_max_tokens=800"], scale=8)
    assert (chosen.config.batch_max_tokens, chosen.config.watermark) == (100, 0.5)
