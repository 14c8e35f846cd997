import json

from lightllm import cli
from lightllm.bench.kernels.search import Found
from lightllm.bench.tune import keep
from lightllm.compute.kernels.triton import tuned
from tests import tiny_checkpoint
from tests.bench.kernels.test_search import DEFAULT, Shape


def found(best) -> Found:
    return Found(best, 0.5, 1, 0, 0)


def test_without_a_gpu_tuning_is_refused(tmp_path, capsys):
    assert cli.main(["tune", str(tiny_checkpoint.write(tmp_path))]) == 1
    assert "there is none here" in capsys.readouterr().err


def test_what_is_kept_is_what_kernels_read(tmp_path):
    parameters: dict = {}
    keep(parameters, "linear by x", "16 x 64", found(Shape(32, 8)), DEFAULT)
    keep(parameters, "linear by x", "32 x 64", found(None), DEFAULT)
    keep(parameters, "attend by y", "64", found(DEFAULT), DEFAULT)
    path = tmp_path / "device.json"
    path.write_text(json.dumps({"parameters": parameters}))
    assert tuned.read(path) == {"linear by x": {"16 x 64": {"tile": 32, "warps": 8}, "32 x 64": None}}
    keep(parameters, "linear by x", "16 x 64", found(DEFAULT), DEFAULT)
    assert parameters == {"linear by x": {"32 x 64": None}}
