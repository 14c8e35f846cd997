"""Weights reach memory that is there already, whole, whatever pieces they are cut into."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lightllm.compute.weights import stream
from lightllm.compute.weights.checkpoint import Safetensors
from lightllm.compute.weights.weight import Part, Weight

CPU = torch.device("cpu")


def window(name, stored, rows, columns):
    return Part(name, tuple(stored[name].shape), (slice(*rows), slice(*columns)))


@pytest.fixture
def stored(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "a": torch.randn(70, 33),
        "b": torch.randn(10, 33).bfloat16(),
        "empty": torch.zeros(0, 33),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path, load_file(tmp_path / "model.safetensors")


def declared(tensors):
    """Weights as ranks have them: rows of two tensors and padding, columns of one, an empty one."""
    return [
        Weight((window("a", tensors, (20, 60), (0, 33)), window("b", tensors, (0, 10), (0, 33))), size=64),
        Weight((window("a", tensors, (0, 70), (8, 17)),)),
        Weight((window("a", tensors, (3, 9), (0, 5)), window("b", tensors, (2, 8), (30, 33))), axis=1),
        Weight((window("empty", tensors, (0, 0), (0, 33)),)),
    ]


def expected(x):
    a, b = x["a"], x["b"].float()
    return [
        torch.cat([a[20:60], b, torch.zeros(14, 33)]),
        a[:, 8:17],
        torch.cat([a[3:9, :5], b[2:8, 30:]], dim=1),
        x["empty"],
    ]


def copied(directory, weights, device=CPU, dtype=torch.float32):
    tensors = [torch.full(weight.shape, float("nan"), dtype=dtype, device=device) for weight in weights]
    counts = []
    destinations = [stream.Destination(*pair) for pair in zip(weights, tensors, strict=True)]
    stream.stream(Safetensors(directory), destinations, device, counts.append)
    assert counts == sorted(counts)
    assert counts[-1] == sum(tensor.nbytes for tensor in tensors)
    return tensors


@pytest.mark.parametrize("piece", [1, 600, stream.PIECE_BYTES])
def test_pieces_of_any_size_make_the_whole(stored, piece, monkeypatch):
    directory, tensors = stored
    monkeypatch.setattr(stream, "PIECE_BYTES", piece)
    for got, wanted in zip(copied(directory, declared(tensors)), expected(tensors), strict=True):
        assert torch.equal(got, wanted)


def test_reading_stops_at_the_first_error(stored, monkeypatch):
    directory, tensors = stored

    def broken(self, part, weight):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Safetensors, "read", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        copied(directory, declared(tensors))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [600, stream.PIECE_BYTES])
def test_a_device_gets_the_same(stored, piece, dtype, monkeypatch):
    directory, tensors = stored
    monkeypatch.setattr(stream, "PIECE_BYTES", piece)
    got = copied(directory, declared(tensors), torch.device("cuda", 0), dtype)
    for one, wanted in zip(got, expected(tensors), strict=True):
        assert torch.equal(one.cpu(), wanted.to(dtype))
