"""SASRec: causal self-attention over the history (Kang and McAuley, ICDM 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.items import StateBackbone, check_sizes
from genrec.config_checks import Similarity
from genrec.layers import Dropout, EncoderLayer, Norm


class SASRec(StateBackbone):
    """Causal self-attention over the last `history_length` items.

    Histories are padded on the right with `num_items`, oldest item in column 0. A position never
    sees a later column, so no state depends on padding, and `forward` sets the states at padding to
    zero.

    Differs: positions are counted from the oldest item (`positions="oldest"`). The original pads on
    the left, so it counts from the newest item, in training too. Counted from the oldest, a state
    does not depend on later items, so one pass over a sequence trains the same states as inference
    computes. With `positions="newest"` the newest item always has the same position; use it for
    training on pairs by `last_state`.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        num_layers: Self-attention layers.
        num_heads: Heads in each layer.
        history_length: Largest number of items in a history.
        dropout: Probability for item vectors with positions, attention weights and layer outputs.
        feedforward_dim: Inner width of the feed-forward parts; by default 4 times `dim`.
        positions: Which item has position 0.
        norm: Position of the layer norms: "pre", before the sub-layers, or "post", after them, as
            in BERT and in the backbones of RecBole.
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
        feedforward_dim: int | None = None,
        positions: Literal["oldest", "newest"] = "oldest",
        norm: Norm = "pre",
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        check_sizes(num_layers=num_layers, history_length=history_length)
        if positions not in ("oldest", "newest"):
            raise ValueError(f"positions must be 'oldest' or 'newest', got {positions!r}")
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
            "feedforward_dim": feedforward_dim,
            "positions": positions,
            "norm": norm,
            "similarity": similarity,
            "temperature": temperature,
        }
        self.positions = positions
        self.position_vectors = nn.Parameter(torch.empty(history_length, dim))
        nn.init.normal_(self.position_vectors, std=0.02)
        self.input_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        *layers, self.last_layer = (
            EncoderLayer(dim, num_heads, feedforward_dim or 4 * dim, dropout=dropout, norm=norm)
            for _ in range(num_layers)
        )
        self.layers = nn.ModuleList(layers)
        # Post-LN layers end with a layer norm of their own.
        self.norm: nn.Module = nn.LayerNorm(dim) if norm == "pre" else nn.Identity()

    def shard_units(self) -> list[nn.Module]:
        """Returns the layers that a sharded training gathers one at a time."""
        return list(self.layers)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state after each item of the history, zero at padding.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        x, padding = self._input(history, item_vectors)
        for layer in self.layers:
            x = layer(x, causal=True)
        states: Tensor = self.norm(self.last_layer(x, causal=True))
        return states.masked_fill(padding[..., None], 0.0)

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state after the newest item of each history, at less cost than `forward`.

        In the last layer only the newest position is a query. All empty histories have the same
        state.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        x, padding = self._input(history, item_vectors)
        newest = (~padding).sum(1).sub(1).clamp(min=0)
        padding = padding.clone()
        padding[:, 0] = False  # in an empty history, the first position sees itself
        for layer in self.layers:
            x = layer(x, causal=True)
        state: Tensor = self.norm(self.last_layer.at(x, newest, padding=padding))
        return state

    def _input(self, history: Tensor, item_vectors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns item vectors with their positions, and True at padding."""
        length = history.shape[1]
        if length > len(self.position_vectors):
            raise ValueError(
                f"history must have at most {len(self.position_vectors)} columns, got {length}"
            )
        vectors, padding = self.look_up(history, item_vectors)
        if self.positions == "oldest":
            positions = self.position_vectors[:length]
        else:
            newest = (~padding).sum(1, keepdim=True) - 1
            columns = torch.arange(length, device=history.device)
            positions = self.position_vectors[(newest - columns).clamp(min=0)]
        return self.dropout(self.input_norm(vectors + positions)), padding
