"""The attention and feed-forward blocks of all sequence models in this package.

Attention is `torch.nn.functional.scaled_dot_product_attention`. Keys and values can be projected
once (`MultiHeadAttention.project`) and used many times, since a decoder has many beams for one
encoded history.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["pre", "post"]
"""Position of the layer norms: before each sub-layer, or after it."""

KeysValues = tuple[
    Float[Tensor, "batch heads keys head_dim"], Float[Tensor, "batch heads keys head_dim"]
]


def attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads keys head_dim"],
    value: Float[Tensor, "batch heads keys head_dim"],
    *,
    padding: Bool[Tensor, "batch keys"] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "batch heads queries head_dim"]:
    """Attends with scaled dot products; a query that sees no key gets zeros, never NaN.

    Args:
        query: One row for each query and head.
        key: Keys, with as many heads as the queries.
        value: Values, one for each key.
        padding: True where a key is padding and must not be seen.
        causal: Query i sees keys 0 to i only; needs as many queries as keys.
        dropout: Probability that an attention weight is dropped.

    Returns:
        One row for each query and head, in the dtype of `query`.
    """
    blind = None
    mask = None
    if padding is not None:
        mask = ~padding[:, None, None, :]
        if causal:
            mask = mask & mask.new_ones(query.shape[-2], key.shape[-2]).tril()
        blind = ~mask.any(dim=-1, keepdim=True)
        mask = mask | blind
    causal = causal and mask is None
    if query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16):
        # The CPU's backward pass in half precision is about 25 times slower than in fp32.
        with torch.autocast("cpu", enabled=False):
            out = F.scaled_dot_product_attention(
                query.float(), key.float(), value.float(), mask, dropout, causal
            ).to(query.dtype)
    else:
        out = F.scaled_dot_product_attention(query, key, value, mask, dropout, causal)
    return out if blind is None else out.masked_fill(blind, 0.0)


class Dropout(nn.Module):
    """Zeroes values at random in training and scales up the rest.

    On a CPU it draws one random byte per value from torch's default generator. This is about five
    times faster than torch's own dropout, which draws a whole number per value and takes a sixth of
    a training step. The probability is then rounded to a multiple of 1/256, and values are scaled
    by the rounded probability, so the mean does not change.

    Args:
        p: Probability that a value is zeroed.

    Raises:
        ValueError: `p` is not in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Returns `x` with some values zeroed, or `x` itself outside training."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped = min(max(round(256 * self.p), 1), 255)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: x.numel()] >= dropped
        return x * kept.view(x.shape).to(x.dtype).mul_(256 / (256 - dropped))


class MultiHeadAttention(nn.Module):
    """Multi-head attention of a sequence over itself or over another one.

    Args:
        dim: Width of queries, keys and outputs; a multiple of `num_heads`.
        num_heads: Number of heads, each `dim / num_heads` wide.
        dropout: Probability that an attention weight is dropped in training.

    Raises:
        ValueError: `dim` is no positive multiple of `num_heads`.
    """

    def __init__(self, dim: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim must be a positive multiple of num_heads, got {dim} and {num_heads}"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.output = nn.Linear(dim, dim)

    def project(self, memory: Float[Tensor, "batch keys dim"]) -> KeysValues:
        """Returns the keys and values of `memory`, for any number of queries."""
        key, value = rearrange(
            self.key_value(memory), "b n (two h d) -> two b h n d", two=2, h=self.num_heads
        )
        return key, value

    def forward(
        self,
        x: Float[Tensor, "batch queries dim"],
        *,
        padding: Bool[Tensor, "batch keys"] | None = None,
        causal: bool = False,
        keys_values: KeysValues | None = None,
    ) -> Float[Tensor, "batch queries dim"]:
        """Attends from `x` to itself, or to keys and values that were projected before.

        Args:
            x: The sequence of queries.
            padding: True where a key is padding.
            causal: Position i sees positions 0 to i only.
            keys_values: Keys and values from `project`; None for those of `x` itself.

        Returns:
            One row per query; a row that sees only padding is the output bias.
        """
        if keys_values is None:
            keys_values = self.project(x)
        query = rearrange(self.query(x), "b n (h d) -> b h n d", h=self.num_heads)
        out = attend(
            query,
            *keys_values,
            padding=padding,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
        )
        result: Tensor = self.output(rearrange(out, "b h n d -> b n (h d)"))
        return result


class FeedForward(nn.Sequential):
    """Two linear layers with GELU between: [..., dim] to [..., dim].

    Args:
        dim: Width of input and output.
        feedforward_dim: Width between the layers.
        dropout: Probability that an inner activation is dropped in training.
    """

    def __init__(self, dim: int, feedforward_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            nn.Linear(dim, feedforward_dim),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(feedforward_dim, dim),
        )


class Residual(nn.Module):
    """Adds a sub-layer's output to its input, with a layer norm before or after the sub-layer.

    Pre-LN is `x + f(norm(x))`; post-LN is `norm(x + f(x))`.

    Args:
        dim: Width of the stream.
        dropout: Probability that an output value of the sub-layer is dropped in training.
        norm: "pre" or "post".

    Raises:
        ValueError: `norm` is neither.
    """

    def __init__(self, dim: int, *, dropout: float, norm: Norm = "pre") -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {get_args(Norm)}, got {norm!r}")
        self.is_post = norm == "post"
        self.norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def input(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Returns the sub-layer's input: `x`, normalised if pre-LN."""
        read: Tensor = x if self.is_post else self.norm(x)
        return read

    def forward(
        self, x: Float[Tensor, "*batch dim"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "*batch dim"]:
        """Runs `sublayer` on `x` and adds its output to `x`."""
        out: Tensor = x + self.dropout(sublayer(self.input(x)))
        return self.norm(out) if self.is_post else out


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual path, pre-LN or post-LN.

    A stack of pre-LN layers needs one more layer norm at its end; this class does not add it.

    Args:
        dim: Width of the stream.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward part.
        dropout: Probability for attention weights, inner activations and sub-layer outputs.
        norm: Position of the layer norms: "pre", before the sub-layers, or "post", after them.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        dropout: float = 0.1,
        norm: Norm = "pre",
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, num_heads, dropout=dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout=dropout)
        self.attention_residual = Residual(dim, dropout=dropout, norm=norm)
        self.feedforward_residual = Residual(dim, dropout=dropout, norm=norm)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        *,
        padding: Bool[Tensor, "batch length"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the layer's states; states at padded positions have no meaning.

        Args:
            x: Input states.
            padding: True at padded positions, which no other position sees.
            causal: Position i sees positions 0 to i only.
        """
        x = self.attention_residual(
            x, lambda read: self.attention(read, padding=padding, causal=causal)
        )
        out: Tensor = self.feedforward_residual(x, self.feedforward)
        return out

    def at(
        self,
        x: Float[Tensor, "batch length dim"],
        places: Int[Tensor, " batch"],
        *,
        padding: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state that `forward` computes at one position of each row, for less work.

        Only this position is a query, so only keys and values are computed for all positions.

        Args:
            x: Input states.
            places: The position in each row.
            padding: True where a position must not be seen; in a causal stack also True at all
                positions later than the query.
        """
        query = x[torch.arange(x.shape[0], device=x.device), places][:, None]
        memory = self.attention.project(self.attention_residual.input(x))
        query = self.attention_residual(
            query,
            lambda read: self.attention(read, keys_values=memory, padding=padding),
        )
        state: Tensor = self.feedforward_residual(query, self.feedforward)
        return state[:, 0]


class DecoderLayer(nn.Module):
    """Causal self-attention, attention over the encoder's states, and feed-forward, pre-LN.

    Args:
        dim: Width of the stream.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward part.
        dropout: Probability for attention weights, inner activations and sub-layer outputs.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim, num_heads, dropout=dropout)
        self.cross_attention = MultiHeadAttention(dim, num_heads, dropout=dropout)
        self.feedforward = FeedForward(dim, feedforward_dim, dropout=dropout)
        self.attention_residual = Residual(dim, dropout=dropout)
        self.cross_residual = Residual(dim, dropout=dropout)
        self.feedforward_residual = Residual(dim, dropout=dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        memory: KeysValues,
        *,
        memory_padding: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the layer's states.

        Args:
            x: Input states.
            memory: The encoder's keys and values, from `cross_attention.project`.
            memory_padding: True where the encoder's positions are padding.
        """
        x = self.attention_residual(x, lambda normed: self.attention(normed, causal=True))
        x = self.cross_residual(
            x,
            lambda normed: self.cross_attention(normed, keys_values=memory, padding=memory_padding),
        )
        out: Tensor = self.feedforward_residual(x, self.feedforward)
        return out
