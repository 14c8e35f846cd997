"""Kernels are checked on a CPU in two ways, each in a process of its own, as Triton chooses its mode when imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton, which the extra `test` has"
)


def passes(file: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / file)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_interpreted_kernels_match_references():
    passes("interpreted.py", TRITON_INTERPRET="1")


def test_kernels_compile_for_hopper():
    passes("compiled.py", TRITON_INTERPRET="0")
