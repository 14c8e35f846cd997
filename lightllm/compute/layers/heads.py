"""What a model gives instead of logits: a vector for each sequence, made of its last token's hidden state or of all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from lightllm.compute.layers.layer import Site
from lightllm.compute.layers.linear import Linear, Output
from lightllm.compute.quant.none import Unquantized
from lightllm.compute.weights.weight import Declared, Part, Weight


class Embedding(nn.Module):
    """The hidden state itself, or what they were pooled to, of length 1 if `normalizes`."""

    def __init__(self, *, normalizes: bool):
        super().__init__()
        self.normalizes = normalizes

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> the same, float32."""
        return F.normalize(hidden.float(), dim=-1) if self.normalizes else hidden.float()


class ExactLinear(Linear):
    """Not quantized whatever the rest of the model is: it has few outputs, and they are the answer."""

    def place(self, site: Site) -> Mapping[str, Declared]:
        plain = Unquantized()
        return super().place(replace(site, method_for=lambda _: plain))


class Labels(ExactLinear):
    """A score for each label: W x. As transformers' ...ForSequenceClassification. name: the checkpoint's."""

    def __init__(self, hidden: int, labels: int, *, name: str = "score"):
        super().__init__(hidden, [Output(name, labels)])

    def forward(self, x: Tensor) -> Tensor:
        """x [n, hidden] -> [n, labels], float32."""
        return self.product(x).float()


class Answers(nn.Module):
    """How much likelier one answer is than another, as the output head sees it: the difference of their logits.

    weight: the output head's in the checkpoint, [vocab, hidden] floats. answers: tokens; of a single one, its logit.
    """

    rows: Tensor

    def __init__(self, weight: str, vocab: int, hidden: int, answers: Sequence[int]):
        super().__init__()
        self.parts = [Part(weight, (vocab, hidden), (slice(one, one + 1), slice(0, hidden))) for one in answers]

    def place(self, site: Site) -> Mapping[str, Declared]:
        return {"rows": Weight(tuple(self.parts))}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        self.rows = tensors["rows"]

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> [n, 1], float32."""
        logits = F.linear(hidden.float(), self.rows.float())
        return logits[:, :1] - logits[:, 1:] if len(self.parts) > 1 else logits


class Reward(nn.Module):
    """W2 relu(W1 x + b1) + b2: one score. As in Qwen2ForRewardModel (github.com/QwenLM/Qwen2.5-Math)."""

    def __init__(self, hidden: int):
        super().__init__()
        # Named as in checkpoints, where a function without weights stands between them.
        self.add_module("0", ExactLinear(hidden, [Output("0", hidden)], bias=True))
        self.add_module("2", ExactLinear(hidden, [Output("2", 1)], bias=True))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> [n, 1], float32."""
        first, second = self.children()
        return second(first(hidden).relu()).float()
