"""BERT4Rec: self-attention in both directions over a masked history (Sun et al., CIKM 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import StateBackbone, check_sizes
from genrec.config_checks import Similarity
from genrec.layers import Dropout, EncoderLayer


class BERT4Rec(StateBackbone):
    """Bidirectional self-attention that predicts masked items; a mask at the end is the next item.

    Train it on `MaskedBatches`. Their histories have `mask_item` at some positions, and the targets
    are the masked items; the states of `forward` at these positions predict them. Unlike the causal
    backbones' states, a state at another position has seen its own item and later ones.

    Differs: layer norm before the sub-layers, no bias for each item, and positions counted from the
    oldest item of the history.

    Args:
        num_items: Size of the catalogue; also the padding. `num_items + 1` is the mask.
        dim: Width of states and item vectors.
        num_layers: Self-attention layers.
        num_heads: Heads in each.
        history_length: Largest number of items in a history, without the mask at its end.
        dropout: Probability for item vectors with positions, attention weights and layer outputs.
        feedforward_dim: Inner width of the feed-forward parts; by default 4 times `dim`.
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
            "feedforward_dim": feedforward_dim,
            "similarity": similarity,
            "temperature": temperature,
        }
        self.mask_vector = nn.Parameter(torch.empty(dim))
        self.position_vectors = nn.Parameter(torch.empty(history_length + 1, dim))
        for parameter in (self.mask_vector, self.position_vectors):
            nn.init.normal_(parameter, std=0.02)
        self.input_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        *layers, self.last_layer = (
            EncoderLayer(dim, num_heads, feedforward_dim or 4 * dim, dropout=dropout)
            for _ in range(num_layers)
        )
        self.layers = nn.ModuleList(layers)
        self.output = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim)
        )

    @property
    def mask_item(self) -> int:
        """The number in a history where an item is masked."""
        return self.num_items + 1

    def shard_units(self) -> list[nn.Module]:
        """Returns the layers that a sharded training gathers one at a time."""
        return list(self.layers)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state of each position, zero at padding; a mask's state predicts its item.

        Raises:
            ValueError: The history is longer than `history_length + 1`.
        """
        x, padding = self._encode(history, item_vectors)
        states: Tensor = self.output(self.last_layer(x, padding=padding))
        return states.masked_fill(padding[..., None], 0.0)

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state of a mask after the newest item, which predicts the next item.

        Raises:
            ValueError: The history is longer than `history_length`.
        """
        end = (history != self.num_items).sum(1)
        masked = F.pad(history, (0, 1), value=self.num_items)
        masked = masked.scatter(1, end[:, None], self.mask_item)
        x, padding = self._encode(masked, item_vectors)
        state: Tensor = self.output(self.last_layer.at(x, end, padding=padding))
        return state

    def _encode(self, history: Tensor, item_vectors: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the last layer's input, and True at padding."""
        length = history.shape[1]
        if length > len(self.position_vectors):
            raise ValueError(
                f"history must have at most {len(self.position_vectors)} columns with its mask, "
                f"got {length}"
            )
        masked = history == self.mask_item
        vectors, padding = self.look_up(history.masked_fill(masked, 0), item_vectors)
        x = torch.where(masked[..., None], self.mask_vector.to(vectors.dtype), vectors)
        x = self.dropout(self.input_norm(x + self.position_vectors[:length]))
        for layer in self.layers:
            x = layer(x, padding=padding)
        return x, padding
