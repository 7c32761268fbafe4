"""HSTU: pointwise aggregated attention with gates (Zhai et al., ICML 2024)."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import StateBackbone, check_sizes
from genrec.config_checks import Similarity
from genrec.layers import Dropout

# The logarithm to base 2 of a difference of two 64-bit times is below this.
_TIME_BUCKETS = 64


class HSTU(StateBackbone):
    """Hierarchical sequential transduction units: attention whose weights are not a softmax.

    In each layer, with phi = SiLU (eq. 1 to 3 of the paper):

        U, V, Q, K = phi(f1(norm(x)))
        A = phi(Q K^T + rab) / history_length, for a position itself and earlier ones
        y = x + f2(norm(A V) * U)

    The weights do not sum to one, so a state can depend on counts, not only on proportions. The
    bias `rab` is one learned number per head for the distance of two items in the history. With
    timestamps, a second number for their distance in time, by powers of two, is added.

    Differs: the bias uses the time between two items; the public code uses the time of the next
    event, which is not known when the next item is predicted. The input is layer-normalised, as in
    this library's SASRec; the public code scales it.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        num_layers: Layers.
        num_heads: Heads in each layer.
        history_length: Largest number of items in a history; divides the attention weights.
        dropout: Probability for item vectors and for the outputs of layers.
        item_encoder: Module whose `forward()` returns [num_items, dim]; an `ItemTable` by default.
        similarity: How states and item vectors are compared, "dot" or "cosine".
        temperature: Divides the similarity.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        num_items: int,
        *,
        dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 2,
        history_length: int = 50,
        dropout: float = 0.2,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        check_sizes(num_layers=num_layers, history_length=history_length)
        super().__init__(
            num_items,
            dim=dim,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        self.settings = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "history_length": history_length,
            "dropout": dropout,
            "similarity": similarity,
            "temperature": temperature,
        }
        self.history_length = history_length
        self.input_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            HSTULayer(dim, num_heads, history_length, dropout=dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def shard_units(self) -> list[nn.Module]:
        """Returns the layers that a sharded training gathers one at a time."""
        return list(self.layers)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
        *,
        timestamps: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state after each item of the history, zero at padding.

        Args:
            history: Item rows, oldest first, padded on the right with `num_items`.
            item_vectors: The result of `item_vectors()`, if available.
            timestamps: The time of each item, all in the same unit; any number at padding.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        length = history.shape[1]
        if length > self.history_length:
            raise ValueError(
                f"history must have at most {self.history_length} columns, got {length}"
            )
        vectors, padding = self.look_up(history, item_vectors)
        x = self.dropout(self.input_norm(vectors))
        buckets = None if timestamps is None else time_buckets(timestamps)
        for layer in self.layers:
            x = layer(x, buckets)
        states: Tensor = self.norm(x)
        return states.masked_fill(padding[..., None], 0.0)

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
        *,
        timestamps: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state after the newest item of each history; zeros for an empty history."""
        states = self(history, item_vectors, timestamps=timestamps)
        return self.newest(states, history)

    def score(
        self,
        history: Int[Tensor, "batch length"],
        *,
        timestamps: Int[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch items"]:
        """Scores the whole catalogue for each history; higher is better."""
        vectors = self.item_vectors()
        return self.compare(self.last_state(history, vectors, timestamps=timestamps), vectors)


class HSTULayer(nn.Module):
    """One unit: projection, attention without softmax, gate.

    Args:
        dim: Width of the stream; a multiple of `num_heads`.
        num_heads: Heads.
        history_length: Largest number of positions; divides the weights.
        dropout: Probability that a value of the layer's output is dropped in training.

    Raises:
        ValueError: `dim` is no multiple of `num_heads`.
    """

    def __init__(self, dim: int, num_heads: int, history_length: int, *, dropout: float) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"dim must be a positive multiple of num_heads, got {dim} and {num_heads}"
            )
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.input = nn.Linear(dim, 4 * dim)
        self.position_bias = nn.Parameter(torch.zeros(num_heads, history_length))
        self.time_bias = nn.Parameter(torch.zeros(num_heads, _TIME_BUCKETS))
        self.output_norm = nn.LayerNorm(dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length dim"],
        buckets: Int[Tensor, "batch length length"] | None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the layer's states.

        Args:
            x: Input states.
            buckets: The row of the time bias for each pair of positions; None for no such bias.
        """
        gate, *attended = F.silu(self.input(self.norm(x))).chunk(4, dim=-1)
        value, query, key = (
            rearrange(part, "b n (h d) -> b h n d", h=self.num_heads) for part in attended
        )
        columns = torch.arange(x.shape[1], device=x.device)
        distance = columns[:, None] - columns
        bias = self.position_bias[:, distance.clamp(min=0)]
        if buckets is not None:
            bias = bias + rearrange(self.time_bias[:, buckets], "h b i j -> b h i j")
        weights = F.silu(query @ key.mT + bias) / self.position_bias.shape[1]
        weights = weights.masked_fill(distance < 0, 0.0)
        seen = rearrange(weights.to(value.dtype) @ value, "b h n d -> b n (h d)")
        out: Tensor = x + self.dropout(self.output(self.output_norm(seen) * gate))
        return out


def time_buckets(timestamps: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length length"]:
    """Returns floor(log2) of the time between any two positions, 0 if the time is below 2."""
    between = (timestamps[:, :, None] - timestamps[:, None, :]).abs()
    return between.clamp(min=1).double().log2().long().clamp(max=_TIME_BUCKETS - 1)
