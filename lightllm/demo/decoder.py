"""The demo model as it is trained: Qwen3's formula with transformers' parameter names, over right-padded rows.

Source: arXiv:2505.09388.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightllm.demo.layout import INITIALIZER_RANGE, NORM_EPSILON, ROPE_THETA, VOCABULARY, Size


def rope_table(size: Size, device: torch.device | str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine [positions, head_dim] of position times frequency, the sine of the first half negated."""
    frequency = ROPE_THETA ** -(torch.arange(0, size.head_dim, 2, device=device) / size.head_dim)
    angle = torch.arange(size.max_position_embeddings, device=device)[:, None] * frequency
    cosine = torch.cat([angle.cos(), angle.cos()], dim=-1)
    sine = torch.cat([-angle.sin(), angle.sin()], dim=-1)
    return cosine.to(dtype), sine.to(dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """x [rows, heads, length, head_dim], turned by its position: the halves of a head are the two coordinates."""
    return torch.addcmul(x * cosine, x.roll(x.shape[-1] // 2, dims=-1), sine)


def norm(width: int) -> nn.RMSNorm:
    return nn.RMSNorm(width, eps=NORM_EPSILON)


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        hidden, self.head_dim = size.hidden_size, size.head_dim
        self.group = size.num_attention_heads // size.num_key_value_heads
        self.q_proj = nn.Linear(hidden, size.num_attention_heads * size.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, size.num_key_value_heads * size.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, size.num_key_value_heads * size.head_dim, bias=False)
        self.o_proj = nn.Linear(size.num_attention_heads * size.head_dim, hidden, bias=False)
        self.q_norm, self.k_norm = norm(size.head_dim), norm(size.head_dim)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        q, k, v = (project(x).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj))
        q = rotate(self.q_norm(q).transpose(1, 2), cosine, sine)
        k = rotate(self.k_norm(k).transpose(1, 2), cosine, sine)
        k, v = (part.repeat_interleave(self.group, dim=1) for part in (k, v.transpose(1, 2)))
        # Padding stands on the right, so the causal mask alone hides it.
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.up_proj = nn.Linear(size.hidden_size, size.intermediate_size, bias=False)
        self.down_proj = nn.Linear(size.intermediate_size, size.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = norm(size.hidden_size), norm(size.hidden_size)
        self.self_attn, self.mlp = Attention(size), MLP(size)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """The whole but the output layer, whose weight is the embedding's."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, size.hidden_size)
        self.layers = nn.ModuleList(Block(size) for _ in range(size.num_hidden_layers))
        self.norm = norm(size.hidden_size)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # What is added to the residual starts small, by the number of additions.
                depth = (2 * len(self.layers)) ** 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(parameter, std=INITIALIZER_RANGE / depth)

    def forward(self, tokens: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """tokens [rows, length] -> hidden [rows, length, hidden]; `table` is `rope_table`'s."""
        cosine, sine = (part[: tokens.shape[1]] for part in table)
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.norm(x)


def prediction_loss(model: Decoder, hidden: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
    """Summed cross entropy of `targets` [n], each predicted at its flat position [n] of hidden."""
    logits = F.linear(hidden.flatten(0, 1)[positions], model.embed_tokens.weight)
    return F.cross_entropy(logits.float(), targets, reduction="sum")
