"""What a model gives instead of logits: a vector for each sequence, made from its last token's hidden state."""

import torch.nn.functional as F
from torch import Tensor, nn

from lightllm.base.task import Task
from lightllm.compute.layers.linear import Linear, Output


class LastHidden(nn.Module):
    """The hidden state itself, of length 1 if `normalizes`."""

    def __init__(self, *, normalizes: bool):
        super().__init__()
        self.normalizes = normalizes

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> the same, float32."""
        return F.normalize(hidden.float(), dim=-1) if self.normalizes else hidden.float()


class Labels(Linear):
    """A score for each label: W x. As transformers' ...ForSequenceClassification."""

    def __init__(self, hidden: int, labels: int):
        super().__init__(hidden, [Output("score", labels)])

    def forward(self, x: Tensor) -> Tensor:
        """x [n, hidden] -> [n, labels], float32."""
        return self.product(x).float()


class Reward(nn.Module):
    """W2 relu(W1 x + b1) + b2: one score. As in Qwen2ForRewardModel (github.com/QwenLM/Qwen2.5-Math)."""

    def __init__(self, hidden: int):
        super().__init__()
        # Named as in checkpoints, where a function without weights stands between them.
        self.add_module("0", Linear(hidden, [Output("0", hidden)], bias=True))
        self.add_module("2", Linear(hidden, [Output("2", 1)], bias=True))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> [n, 1], float32."""
        first, second = self.children()
        return second(first(hidden).relu()).float()


def head_for(task: Task, hidden: int) -> nn.Module | None:
    """None: the model generates."""
    match task.kind:
        case "embed":
            return LastHidden(normalizes=task.normalizes)
        case "classify":
            return Labels(hidden, task.width)
        case "reward":
            return Reward(hidden)
        case _:
            return None
