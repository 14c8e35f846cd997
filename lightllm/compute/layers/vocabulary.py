"""The two ends of a decoder: tokens to vectors, vectors to logits."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from lightllm.compute import ops
from lightllm.compute.layers.layer import Site
from lightllm.compute.layers.linear import Output, Projection
from lightllm.compute.parallel.mesh import Group
from lightllm.compute.quant.none import Unquantized
from lightllm.compute.weights.share import Share, padded
from lightllm.compute.weights.weight import Declared, Part, Weight

EIGHT = 8  # numbers that 4-bit formats keep in one


class Vocabulary(nn.Module):
    """A row for each token of the vocabulary, of which each rank holds a share.

    Serves as the embedding, and as the output head too where a model ties them.
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
        """x [tokens, hidden] -> its product with every row [tokens, vocab] float32, on every rank."""
        return self.group.gather_last(ops.logits(x, self.weight))[..., : self.vocab]


class OutputHead(Projection):
    """The product of hidden states with a row for each token, which may be quantized. Ranks hold rows by eights."""

    def __init__(self, vocab: int, hidden: int):
        super().__init__(hidden, [Output("lm_head", vocab)])
        self.vocab = vocab

    def local_outputs(self, output: Output) -> Share:
        eights = padded(-(-output.size // EIGHT), self.group)
        return Share(output.size, *(min(edge * EIGHT, output.size) for edge in (eights.start, eights.stop)))

    def scores(self, x: Tensor) -> Tensor:
        """x [tokens, hidden] -> [tokens, vocab], on every rank; float32 unless the head is quantized."""
        is_whole = isinstance(self.method, Unquantized)
        y = ops.logits(x, self.tensors["weight"]) if is_whole else self.product(x)
        if self.group.ranks > 1:
            most = -(-self.vocab // (EIGHT * self.group.ranks)) * EIGHT
            y = self.group.gather_last(F.pad(y, (0, most - y.shape[1])))
        return y[..., : self.vocab]
