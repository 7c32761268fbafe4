"""HGN: hierarchical gates over the newest items (Ma et al., KDD 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import StateBackbone, check_sizes
from genrec.config_checks import Similarity
from genrec.layers import Dropout


class HGN(StateBackbone):
    """Hierarchical gates over the last `window` items.

    There is a gate for each feature of an item (the paper's feature gating), then one for each item
    (its instance gating). The state is the mean of the gated items, plus the sum of the items
    themselves, which compares each of them with the scored item (its item-item product), plus a
    vector for the long-term taste. A state sees the `window` items up to its own, and no later one.

    Differs: histories have no users, so one vector replaces all user vectors. Their parts in the
    gates are learned biases, for features and for places in the window, and the vector itself is
    the bias of the last layer. This linear layer maps the input vectors to the scored ones, which
    are a second table in the paper. If a window is not full, the mean is over its items only. Any
    loss of `genrec.losses` replaces BPR.

    Args:
        num_items: Size of the catalogue; also the padding.
        dim: Width of states and item vectors.
        window: How many of the newest items are read: |L| in the paper.
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
        window: int = 5,
        dropout: float = 0.2,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        check_sizes(window=window)
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
            "dropout": dropout,
            "similarity": similarity,
            "temperature": temperature,
        }
        self.window = window
        self.dropout = Dropout(dropout)
        self.feature_gate = nn.Linear(dim, dim)
        self.item_gate = nn.Linear(dim, 1, bias=False)
        self.place_bias = nn.Parameter(torch.zeros(window))  # the newest item's is the last
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        history: Int[Tensor, "batch length"],
        item_vectors: Float[Tensor, "items dim"] | None = None,
    ) -> Float[Tensor, "batch length dim"]:
        """Returns the state after each item of the history, zero at padding."""
        vectors, padding = self.look_up(history, item_vectors)
        vectors = self.dropout(vectors)
        gated = vectors * torch.sigmoid(self.feature_gate(vectors))  # [batch, length, dim]
        # The gate of an item depends on its place in the window, so it differs between windows.
        gates = torch.sigmoid(self._windows(self.item_gate(gated))[:, :, 0] + self.place_bias)
        passed = torch.einsum("blw,bldw->bld", gates, self._windows(gated))
        places = torch.arange(1, history.shape[1] + 1, device=history.device)
        items = self._windows(vectors).sum(dim=-1)
        mean = passed / places.clamp(max=self.window)[:, None]
        states: Tensor = self.output(mean + items)
        return states.masked_fill(padding[..., None], 0.0)

    def _windows(
        self, x: Float[Tensor, "batch length width"]
    ) -> Float[Tensor, "batch length width window"]:
        """Returns the rows of the window that ends at each place, zeros before the first."""
        return F.pad(x, (0, 0, self.window - 1, 0)).unfold(1, self.window, 1)
