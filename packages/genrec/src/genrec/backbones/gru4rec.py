"""GRU4Rec: a gated recurrent network over the history (Hidasi et al., ICLR 2016)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbones.items import StateBackbone, check_sizes
from genrec.config_checks import Similarity
from genrec.layers import Dropout


class GRU4Rec(StateBackbone):
    """Gated recurrent units over item vectors, then a linear layer to the width of the items.

    It reads histories of any length. Padding is on the right, so no state depends on it, and
    `forward` sets the states at padding to zero. An empty history has the zero state, which prefers
    no item.

    Differs: batches of whole sequences and any loss of `genrec.losses`; the original processes
    parallel sessions step by step, with pairwise losses.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        hidden_dim: Width of the recurrent state; by default twice `dim`.
        num_layers: Recurrent layers.
        dropout: Probability that a value of the item vectors is dropped in training.
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
        hidden_dim: int | None = None,
        num_layers: int = 1,
        dropout: float = 0.2,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        hidden_dim = 2 * dim if hidden_dim is None else hidden_dim
        check_sizes(hidden_dim=hidden_dim, num_layers=num_layers)
        super().__init__(
            num_items,
            dim=dim,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        self.settings = {
            "dim": dim,
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "dropout": dropout,
            "similarity": similarity,
            "temperature": temperature,
        }
        self.dropout = Dropout(dropout)
        self.gru = nn.GRU(dim, hidden_dim, num_layers, batch_first=True)
        self.output = nn.Linear(hidden_dim, dim)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state after each item of the history, zero at padding."""
        vectors, padding = self.look_up(history, item_vectors)
        hidden, _ = self.gru(self.dropout(vectors))
        states: Tensor = self.output(hidden)
        return states.masked_fill(padding[..., None], 0.0)

    def last_state(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Returns the state after the newest item of each history; zeros for an empty history.

        The steps over padding are skipped.
        """
        vectors, padding = self.look_up(history, item_vectors)
        lengths = (~padding).sum(1)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(vectors),
            lengths.clamp(min=1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        _, hidden = self.gru(packed)
        state: Tensor = self.output(hidden[-1])
        return state.masked_fill(torch.eq(lengths, 0)[:, None], 0.0)
