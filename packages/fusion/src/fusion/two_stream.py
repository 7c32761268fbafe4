"""TSSR's second half: streams that attend to one another, and a gate that joins them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class CrossModalLayer(nn.Module):
    """One stream attends to another: cross-attention, then feed-forward, each with a residual path.

    TSSR, 3.4. Post-LN. A learned number scales each sub-layer's output. It starts at 1e-8, as in
    the authors' code, so the sub-layers add almost nothing at first.

    Args:
        dim: Width of the streams.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward part.
        dropout: Probability for attention weights, inner activations and sub-layer outputs.
        residual_start: Initial scale of each sub-layer's output; 1 is plain post-LN.

    Raises:
        ValueError: `dim` is no multiple of `num_heads`, or `residual_start` is not finite.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        *,
        dropout: float,
        residual_start: float = 1e-8,
    ) -> None:
        super().__init__()
        if dim < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim must be a positive multiple of num_heads, got {dim} and {num_heads}"
            )
        if not math.isfinite(residual_start):
            raise ValueError(f"residual_start must be finite, got {residual_start}")
        self.attention = nn.MultiheadAttention(dim, num_heads, dropout, batch_first=True)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, feedforward_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(feedforward_dim, dim),
        )
        self.dropout = nn.Dropout(dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.scales = nn.Parameter(torch.full((2,), residual_start))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        other: Float[Tensor, "batch length dim"],
    ) -> Float[Tensor, "batch length dim"]:
        """The states of `x`, each of which attends to `other` up to its own step."""
        length = x.shape[1]
        later = x.new_ones(length, length, dtype=torch.bool).triu(1)  # True: must not look
        # `seen` and all that follows are [batch, length, dim].
        seen, _ = self.attention(x, other, other, attn_mask=later, need_weights=False)
        x = self.norms[0](x + self.scales[0] * self.dropout(seen))
        out: Tensor = self.norms[1](x + self.scales[1] * self.dropout(self.feedforward(x)))
        return out


class CrossModalEncoder(nn.Module):
    """Layers in which every stream attends to another one (TSSR, 3.4).

    With two streams, each attends to the other, as in the paper. With more, stream i attends in
    layer 0 to stream i + 1, in layer 1 to stream i + 2, and so on, never to itself. After the last
    stream comes the first. So in `num_streams - 1` layers each stream attends to every other.

    Padding is at the end of a sequence, where the causal mask hides it.

    Args:
        num_streams: The stream of item ids and one stream for each content modality.
        dim: Width of the streams.
        num_layers: Layers in each direction: L_multi; 1 in the paper, 4 in the authors' code.
        num_heads: Attention heads.
        feedforward_dim: Inner width of the feed-forward part.
        dropout: Probability for attention weights, inner activations and sub-layer outputs.
        residual_start: Initial scale of each sub-layer's output.

    Raises:
        ValueError: A number is out of range, or `dim` is no multiple of `num_heads`.
    """

    def __init__(
        self,
        num_streams: int = 2,
        dim: int = 128,
        *,
        num_layers: int = 1,
        num_heads: int = 4,
        feedforward_dim: int = 256,
        dropout: float = 0.1,
        residual_start: float = 1e-8,
    ) -> None:
        super().__init__()
        if num_streams < 2:
            raise ValueError(f"num_streams must be at least 2, got {num_streams}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.num_streams = num_streams
        self.layers = nn.ModuleList(
            nn.ModuleList(
                CrossModalLayer(
                    dim, num_heads, feedforward_dim, dropout=dropout, residual_start=residual_start
                )
                for _ in range(num_streams)
            )
            for _ in range(num_layers)
        )

    def forward(
        self, streams: Sequence[Float[Tensor, "batch length dim"]]
    ) -> list[Float[Tensor, "batch length dim"]]:
        """The streams after each has attended to the others.

        Raises:
            ValueError: The number of streams is not `num_streams`.
        """
        if len(streams) != self.num_streams:
            raise ValueError(f"streams must be {self.num_streams}, got {len(streams)}")
        current = list(streams)
        for depth, layer in enumerate(self.layers):
            assert isinstance(layer, nn.ModuleList)
            step = depth % (self.num_streams - 1) + 1  # from a stream to the one it attends to
            current = [
                cross(current[i], current[(i + step) % self.num_streams])
                for i, cross in enumerate(layer)
            ]
        return current


class Gate(nn.Module):
    """Joins streams by weights that are computed from them, one for each dimension.

    TSSR, eq. 3: with two streams, `S * first + (1 - S) * second` where S = sigmoid(W [first,
    second] + b). With more, the weights are a softmax over the streams in which the last stream's
    logit is 0; for two streams this is the sigmoid.

    Args:
        num_streams: Number of streams that are joined.
        dim: Width of each stream.

    Raises:
        ValueError: `num_streams` is less than 2.
    """

    def __init__(self, num_streams: int = 2, dim: int = 128) -> None:
        super().__init__()
        if num_streams < 2:
            raise ValueError(f"num_streams must be at least 2, got {num_streams}")
        self.num_streams = num_streams
        self.projection = nn.Linear(num_streams * dim, (num_streams - 1) * dim)
        nn.init.xavier_normal_(self.projection.weight)

    def weights(
        self, streams: Sequence[Float[Tensor, "*batch dim"]]
    ) -> Float[Tensor, "*batch streams dim"]:
        """Each stream's weight in each dimension; over the streams they sum to 1.

        Raises:
            ValueError: The number of streams is not `num_streams`.
        """
        if len(streams) != self.num_streams:
            raise ValueError(f"streams must be {self.num_streams}, got {len(streams)}")
        logits: Tensor = self.projection(torch.cat(list(streams), dim=-1))
        logits = logits.view(*streams[0].shape[:-1], self.num_streams - 1, -1)  # all but the last's
        # The softmax of (z, 0) is (sigmoid(z), 1 - sigmoid(z)): eq. 3 for two streams.
        return torch.cat([logits, torch.zeros_like(logits[..., :1, :])], dim=-2).softmax(dim=-2)

    def forward(
        self, streams: Sequence[Float[Tensor, "*batch dim"]]
    ) -> Float[Tensor, "*batch dim"]:
        """The weighted sum of the streams."""
        stacked = torch.stack(list(streams), dim=-2)  # [*batch, streams, dim]
        return (self.weights(streams) * stacked).sum(dim=-2)
