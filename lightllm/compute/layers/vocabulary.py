"""The two ends of a decoder: tokens to vectors, vectors to logits."""

from collections.abc import Mapping

from torch import Tensor, nn

from lightllm.compute import ops
from lightllm.compute.layers.layer import Site
from lightllm.compute.parallel.mesh import Group
from lightllm.compute.weights.share import Share, padded
from lightllm.compute.weights.weight import Declared, Part, Weight


class Vocabulary(nn.Module):
    """A row for each token of the vocabulary, of which each rank holds a share.

    Serves as the embedding, as the output head, or as both where a model ties them.
    """

    weight: Tensor
    share: Share

    def __init__(self, vocab: int, hidden: int):
        super().__init__()
        self.vocab, self.hidden = vocab, hidden
        self.group = Group()

    def place(self, site: Site) -> Mapping[str, Declared]:
        self.group = site.mesh.tensor
        self.share = padded(self.vocab, self.group)
        part = Part(f"{site.path}.weight", (self.vocab, self.hidden), (self.share.window, slice(0, self.hidden)))
        return {"weight": Weight((part,), size=-(-self.vocab // self.group.ranks))}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        self.weight = tensors["weight"]

    def rows(self, tokens: Tensor) -> Tensor:
        """tokens [tokens] -> their rows [tokens, hidden], on every rank."""
        return self.group.sum(ops.embedding(tokens, self.weight, self.share.start))

    def scores(self, x: Tensor) -> Tensor:
        """x [tokens, hidden] -> its product with every row [tokens, vocab], on every rank."""
        return self.group.gather_last(ops.linear(x, self.weight, None))[..., : self.vocab]
