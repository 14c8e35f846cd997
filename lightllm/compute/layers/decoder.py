"""The outline all decoder-only models share: embed, run blocks, norm, project to the vocabulary."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from torch import Tensor, nn

from lightllm.base.config import Pooling
from lightllm.compute.layers.batch import Batch
from lightllm.compute.layers.heads import Reward
from lightllm.compute.layers.linear import Unfinished
from lightllm.compute.layers.norm import Joining, RMSNorm
from lightllm.compute.layers.rope import Rope
from lightllm.compute.layers.vocabulary import OutputHead, Vocabulary
from lightllm.compute.state.layer_state import LayerState
from lightllm.compute.state.token_pool import stateful


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)).

    The sum travels as a pair (x, residual) that is added up in the next norm, so that adding and norming are one op;
    x may be a product that is computed there, too. mlp_name: what checkpoints call it.
    """

    def __init__(self, hidden: int, eps: float, *, attention: nn.Module, mlp: nn.Module, mlp_name: str = "mlp"):
        super().__init__()
        self.input_layernorm = RMSNorm(hidden, eps)
        self.self_attn = attention
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.mlp_name = mlp_name
        self.add_module(mlp_name, mlp)
        for layer in (attention, mlp):
            if isinstance(layer, Joining):
                layer.leaves_product = True

    def forward(self, x: Unfinished, residual: Tensor | None, batch: Batch) -> tuple[Unfinished, Tensor]:
        mlp = self.get_submodule(self.mlp_name)
        normed, residual = self.input_layernorm.add_for(self.self_attn, x, residual)
        x = self.self_attn(normed, batch)
        normed, residual = self.post_attention_layernorm.add_for(mlp, x, batch.outputs(residual))
        return mlp(normed), residual


class Config(Protocol):
    """What the outline needs of a model's Config."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def rms_norm_eps(self) -> float: ...

    @property
    def tie_word_embeddings(self) -> bool: ...


class Decoder(nn.Module):
    """Batch -> hidden states of the wanted tokens [n, hidden], of all if none are named."""

    def __init__(self, config: Config, blocks: Iterable[nn.Module]):
        super().__init__()
        self.embed_tokens = Vocabulary(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(blocks)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, batch: Batch) -> Tensor:
        x, residual = self.embed_tokens.rows(batch.tokens), None
        *blocks, last = self.layers
        for block in blocks:
            x, residual = block(x, residual, batch)
        x, residual = last(x, residual, batch.last_layer())
        return self.norm.add(x, residual)[0]


class CausalLM(nn.Module):
    """A decoder and its output head, which may be the embedding.

    `rope` belongs to all blocks. unused: names of tensors (a regular expression) that a checkpoint of this model may
    hold beyond what is computed here. names: what checkpoints call parts that are called otherwise here. reward_head:
    makes the head of the family's reward models, given the hidden size.
    """

    def __init__(
        self,
        config: Config,
        *,
        rope: Rope,
        blocks: Iterable[nn.Module],
        unused: str | None = None,
        names: Mapping[str, str] | None = None,
        reward_head: Callable[[int], nn.Module] = Reward,
    ):
        super().__init__()
        self.vocab, self.rope, self.names, self.reward_head = config.vocab_size, rope, names or {}, reward_head
        self.model = Decoder(config, blocks)
        tied = config.tie_word_embeddings
        lm_head = self.model.embed_tokens if tied else OutputHead(config.vocab_size, config.hidden_size)
        self.lm_head: Vocabulary | OutputHead | None = lm_head
        self.score: nn.Module | None = None  # named as in checkpoints
        self.pooling: Pooling = "last"
        output_head = self.stored_path("lm_head")
        self.output_weight = f"{self.stored_path('model.embed_tokens') if tied else output_head}.weight"
        self._output_head = rf"^{output_head}\.weight$"
        patterns = filter(None, [unused, self._output_head if tied else None])
        self.unused = re.compile("|".join(patterns) or "(?!)")

    def replace_head(self, head: nn.Module, *, pooling: Pooling = "last") -> None:
        """From now on `head` makes vectors of what hidden states are pooled to; before materializing. The checkpoint
        may still have the output head that made logits of them."""
        self.lm_head, self.score, self.pooling = None, head, pooling
        self.unused = re.compile(f"{self.unused.pattern}|{self._output_head}")

    def stored_path(self, path: str) -> str:
        """What checkpoints call a module of this path."""
        return ".".join(self.names.get(part, part) for part in path.split("."))

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states of the wanted tokens after the final norm, [n, hidden]."""
        return self.model(batch)

    def vectors(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> [n, width] float32, on every rank; of models whose head was replaced."""
        assert self.score is not None, "asked of models with such a head"
        return self.score(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [n, hidden] -> [n, vocab], on every rank; all ranks must call it."""
        assert self.lm_head is not None, "asked of models that generate"
        return self.lm_head.scores(hidden)

    @property
    def max_positions(self) -> int:
        """How many positions there are angles for; `extend` before materializing if the checkpoint says too few."""
        return self.rope.positions

    def extend(self, positions: int) -> None:
        """Make room for at least this many positions."""
        self.rope.positions = max(self.rope.positions, positions)

    def states(self) -> list[LayerState]:
        """What each layer remembers of a token, on this rank; known once the model is materialized."""
        return [layer.state() for layer in stateful(self)]
