"""What measures a GPU says so where there is none."""

import torch


def require() -> None:
    """Raises SystemExit."""
    if not torch.cuda.is_available():
        raise SystemExit("this measures a GPU, and torch finds none here; `lightllm check` shows what there is")
