import json

import pytest
import torch

from lightllm import cli
from lightllm.bench.kernels import cases
from lightllm.bench.kernels.cases import Cases, Sizes
from lightllm.bench.kernels.timing import Case, Roof, seconds_of
from lightllm.compute import kernels
from lightllm.compute.ops.op import ALL, Facts

CPU = torch.device("cpu")
TINY = Sizes(16, 24, 200, 4, 2, 8, (1, 3), ((1, 9), (3, 5)), (4, 6), (1, 3))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(cases.SIZES, "cpu", TINY)


def test_every_case_runs_and_every_op_has_its_reference(tiny):
    facts = Facts(CPU, torch.float32)
    kernels.load(facts)
    made = list(Cases(facts).all())
    assert len({case.name for case in made}) == len(made)
    for case in made:
        case.function(*case.make())
        assert case.bytes_moved > 0
    by_op = {case.op: {other.implementation for other in made if other.op == case.op} for case in made}
    assert all("reference" in names for names in by_op.values())
    assert {"attend", "linear", "gated_linear", "logits", "draw", "logprobs", "add_rms_norm"} <= set(by_op)
    computed = {op.name for op in ALL.values() if any(one.why_not(facts) is None for one in op.implementations)}
    assert computed <= set(by_op)


def test_a_share_is_of_whatever_bounds_the_case():
    roof = Roof(copy_bytes_s=100.0, read_bytes_s=200.0, operations_s=1000.0)
    by_bytes = Case("op", "size", "a", print, tuple, bytes_moved=100.0, operations=10.0)
    by_operations = Case("op", "size", "a", print, tuple, bytes_moved=1.0, operations=250.0)
    assert roof.share(by_bytes, 1.0) == 0.5
    assert roof.share(by_operations, 0.5) == 0.5


def test_calls_take_turns():
    ran = []
    seconds, _ = seconds_of([lambda: ran.append(1), lambda: ran.append(2)], CPU)
    assert seconds > 0
    assert ran[:4] == [1, 2, 1, 2]


def test_the_command_writes_what_it_measures(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("lightllm.bench.ops.measure_roof", lambda *_: Roof(1e9, 1e9, 1e9))
    path = tmp_path / "ops.json"
    only = ["--only", "add_rms_norm", "--skip", "torch_native"]
    assert cli.main(["bench", "ops", "--device", "cpu", *only, "--output-json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {(row["size"], row["implementation"]) for row in rows} == {("1 x 16", "reference"), ("3 x 16", "reference")}
    roof, blank, header, *rows = capsys.readouterr().out.splitlines()
    assert roof.startswith("cpu, float32: reads 1 GB/s, copies 1 GB/s, multiplies at 0.001 TFLOP/s")
    assert (header.split()[0], header.split()[-1], blank) == ("op", "share", "")
    assert all(len(row) == len(header) and row.startswith("add_rms_norm ") for row in rows)


@pytest.mark.parametrize("flags", [["--only", "nothing"], ["--warm", "4/4"], ["--warm", "1"], ["--warm", "0/1"]])
def test_what_leaves_nothing_to_do_is_refused(tiny, flags, capsys):
    assert cli.main(["bench", "ops", "--device", "cpu", *flags]) == 1
    assert capsys.readouterr().err.startswith("lightllm bench: --")
