"""Caser: convolutions over the newest items (Tang and Wang, WSDM 2018)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import StateBackbone, check_sizes
from genrec.config_checks import Similarity
from genrec.layers import Dropout


class Caser(StateBackbone):
    """Convolutions over the last `window` items, as over an image with one row per item.

    Horizontal filters of each height slide over the rows, and max pooling keeps their largest
    value, so they find patterns of neighbouring items at any place. Vertical filters weight the
    rows of each column (both section 3.2). A layer with ReLU joins them (section 3.3). A state sees
    the `window` items up to its own, with zeros before the first, and no later item.

    Differs: histories have no users, so the filters' outputs are not joined with a user vector.
    Instead a linear layer follows, as wide as the item vectors; the same item vectors are read and
    scored. Any loss of `genrec.losses` replaces the binary cross-entropy.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        window: How many of the newest items are read: L in the paper.
        num_horizontal: Horizontal filters of each height from 1 to `window`.
        num_vertical: Vertical filters.
        dropout: Probability that an output of the filters is dropped in training.
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
        window: int = 5,
        num_horizontal: int = 16,
        num_vertical: int = 4,
        dropout: float = 0.2,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        check_sizes(window=window, num_horizontal=num_horizontal, num_vertical=num_vertical)
        super().__init__(
            num_items,
            dim=dim,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        self.settings = {
            "dim": dim,
            "window": window,
            "num_horizontal": num_horizontal,
            "num_vertical": num_vertical,
            "dropout": dropout,
            "similarity": similarity,
            "temperature": temperature,
        }
        self.window = window
        self.horizontal = nn.ModuleList(
            nn.Conv1d(dim, num_horizontal, height) for height in range(1, window + 1)
        )
        self.vertical = nn.Linear(window, num_vertical)
        self.dropout = Dropout(dropout)
        self.hidden = nn.Linear(window * num_horizontal + num_vertical * dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state after each item of the history, zero at padding."""
        vectors, padding = self.look_up(history, item_vectors)
        # Zeros before the first item, so that a whole window ends at each item.
        rows = F.pad(vectors, (0, 0, self.window - 1, 0))  # [batch, window - 1 + length, dim]
        # A filter of height h has window - h + 1 places in a window; its largest value counts.
        patterns = [
            F.max_pool1d(F.relu(filters(rows.mT)), self.window - height, stride=1)
            for height, filters in enumerate(self.horizontal)
        ]  # [batch, filters, length] each
        weighed = self.vertical(rows.unfold(1, self.window, 1))  # [batch, length, dim, filters]
        joined = torch.cat([*(part.mT for part in patterns), weighed.flatten(2)], dim=-1)
        states: Tensor = self.output(F.relu(self.hidden(self.dropout(joined))))
        return states.masked_fill(padding[..., None], 0.0)
