"""The small model that ships with the package, and how it was trained."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
