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
    """Convolutions over the last `window` items as over an image of one row an item.

    Horizontal filters of each height slide down the rows and keep their greatest value, so that
    they find patterns of neighbouring items wherever these stand; vertical filters weigh the rows
    of each column (both section 3.2); a layer with ReLU sums them up (section 3.3). A state sees
    the `window` items that end at its own, with zeros before the first, whatever comes later.

    Differs: histories come without users, so that there is no vector of the user beside what the
    filters found; a linear layer stands there, to the width of the item vectors, which are
    the same that are read. Any loss of `genrec.losses` in place of the binary cross-entropy.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        window: Newest items that are read: L in the paper.
        num_horizontal: Horizontal filters of each height from 1 to `window`.
        num_vertical: Vertical filters.
        dropout: Probability that a value that the filters found is dropped in training.
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
        # Zeros before the first item, so that a whole window ends at each.
        rows = F.pad(vectors, (0, 0, self.window - 1, 0))  # [batch, window - 1 + length, dim]
        # A filter of height h has window - h + 1 places in a window; its greatest value counts.
        patterns = [
            F.max_pool1d(F.relu(filters(rows.mT)), self.window - height, stride=1)
            for height, filters in enumerate(self.horizontal)
        ]  # [batch, filters, length] each
        weighed = self.vertical(rows.unfold(1, self.window, 1))  # [batch, length, dim, filters]
        joined = torch.cat([*(part.mT for part in patterns), weighed.flatten(2)], dim=-1)
        states: Tensor = self.output(F.relu(self.hidden(self.dropout(joined))))
        return states.masked_fill(padding[..., None], 0.0)
