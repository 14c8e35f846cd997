import importlib
import json
from dataclasses import dataclass

import pytest
import torch

from lightllm.base.errors import ConfigError
from lightllm.compute import ops
from lightllm.compute.kernels.triton import tuned

CUDA = torch.device("cuda", 0)
# What kernels ask for that compute an op in some of its cases.
PARTS_OF_OPS = {"attend chunks", "attend decodes", "attend quantized decodes", "experts plain", "experts scaled"}


@dataclass(frozen=True)
class Shape:
    tile: int
    warps: int = 4


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The user's folder and the package's, for a device named as below."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200 (SXM)")
    monkeypatch.setattr(tuned.env, "TUNED_FOLDER", str(tmp_path / "user"))
    monkeypatch.setattr(tuned, "PACKAGED", tmp_path / "package")
    tuned._found.cache_clear()
    tuned.read.cache_clear()
    yield tmp_path / "user", tmp_path / "package"
    tuned._found.cache_clear()
    tuned.read.cache_clear()


def write(folder, content) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "NVIDIA_H200_SXM_.json").write_text(content if isinstance(content, str) else json.dumps(content))


def asked(op="linear", sizes=(16, 4096)):
    return tuned.shape(CUDA, op, Shape, sizes, Shape(1))


def test_without_a_file_the_default_counts(folders):
    assert tuned.file_for(CUDA) is None
    assert asked() == Shape(1)


def test_measured_parameters_count_at_the_sizes_they_were_measured_for(folders):
    _, package = folders
    write(package, {"parameters": {"linear by test_tuned": {"16 x 4096": {"tile": 64, "warps": 8}, "1 x 1": None}}})
    assert asked() == Shape(64, 8)
    assert asked(sizes=(1, 1)) is None
    assert asked(sizes=(32, 4096)) == Shape(1)
    assert asked(op="attend") == Shape(1)


def test_tensors_without_memory_are_computed_as_on_the_device_that_they_stand_for(folders, monkeypatch):
    """Else kernels are compiled at start that nobody launches, and those that are launched only then."""
    write(folders[1], {"parameters": {"linear by test_tuned": {"16 x 4096": {"tile": 64}}}})
    without_memory = torch.device("meta")
    assert tuned.shape(without_memory, "linear", Shape, (16, 4096), Shape(1)) == Shape(1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert tuned.shape(without_memory, "linear", Shape, (16, 4096), Shape(1)) == asked() == Shape(64)


def test_which_file_counts_can_be_said(folders):
    assert tuned.describe(CUDA).startswith("compiled in")
    write(folders[1], {"parameters": {"linear by test_tuned": {"16 x 4096": {"tile": 64}, "1 x 1": None}}})
    assert tuned.describe(CUDA).startswith(f"2 measured, from {folders[1]}")


def test_the_users_own_file_counts_before_the_packages(folders):
    for folder, tile in zip(folders, (32, 64), strict=True):
        write(folder, {"parameters": {"linear by test_tuned": {"16 x 4096": {"tile": tile}}}})
    assert asked() == Shape(32)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", {"parameters": {"linear": 3}}, {"parameters": {"linear by test_tuned": {"16 x 4096": {"x": 1}}}}],
)
def test_a_file_that_does_not_fit_is_named(folders, content):
    write(folders[0], content)
    with pytest.raises(ConfigError, match="NVIDIA_H200_SXM_.json.*lightllm tune"):
        asked()


@pytest.mark.parametrize("path", sorted(tuned.PACKAGED.glob("*.json")), ids=lambda path: path.stem)
def test_all_that_the_package_holds_is_what_some_kernel_asks_for(path):
    for name, entries in tuned.read(path).items():
        op, _, kernel = name.partition(" by ")
        shape = importlib.import_module(f"lightllm.compute.kernels.triton.{kernel}").Shape
        assert hasattr(ops, op) or op in PARTS_OF_OPS
        for sizes, values in entries.items():
            assert tuned.key([int(size) for size in sizes.split(" x ")]) == sizes
            assert values is None or shape(**values)


def test_other_devices_have_no_file(folders):
    assert tuned.shape(torch.device("cpu"), "linear", Shape, (1,), Shape(1)) == Shape(1)
    assert tuned.file_for(torch.device("cpu")) is None
