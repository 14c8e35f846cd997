"""Whoever looks into benchmarks/ finds what each script does, and how to run it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_script_says_how_to_run_it_and_is_in_the_documentation(path):
    text = path.read_text()
    about = ast.get_docstring(ast.parse(text)) or ""
    is_script = "argparse.ArgumentParser" in text
    assert about
    assert is_script == (f"python -m benchmarks.{path.stem}" in about)
    assert f"`{path.stem}`" in (ROOT / "docs" / "benchmarks.md").read_text()
