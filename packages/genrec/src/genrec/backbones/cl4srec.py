"""CL4SRec: SASRec with a contrastive loss over changed histories (Xie et al., ICDE 2022)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from genrec.backbones.contrasting import Contrasting
from genrec.backbones.masked_items import MaskedItems
from genrec.config_checks import Similarity
from genrec.layers import Norm
from genrec.sequences import Batch


class CL4SRec(MaskedItems, Contrasting):
    """SASRec whose training also makes the states of two changed copies of a history similar.

    Each copy is cropped, masked or reordered, with equal probability (the paper's item crop, item
    mask and item reorder). The two copies of a history are each other's positives; copies of the
    batch's other histories are the negatives (its contrastive loss).

    Differs: layers and positions are those of this library's `SASRec`. Copies are compared like
    states and items, by the dot product or the cosine, but with their own temperature.

    Args:
        num_items: Size of the catalogue; also the padding. `num_items + 1` is the mask.
        dim: As in `SASRec`, like all arguments that are not explained here.
        num_layers: Self-attention layers.
        num_heads: Heads in each layer.
        history_length: Largest number of items in a history.
        dropout: Dropout probability.
        feedforward_dim: Inner width of the feed-forward parts.
        positions: Which item has position 0.
        norm: Position of the layer norms.
        crop_share: Share of a history that a crop keeps, a contiguous part: eta in the paper.
        mask_share: Share of its items that are masked: gamma.
        reorder_share: Share of its items that are shuffled, a contiguous part: beta.
        contrast_weight: Weight of the contrastive loss: lambda.
        contrast_temperature: Divides the similarity of copies: tau.
        item_encoder: Module whose `forward()` returns [num_items, dim].
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
        crop_share: float = 0.6,
        mask_share: float = 0.3,
        reorder_share: float = 0.6,
        contrast_weight: float = 0.1,
        contrast_temperature: float = 1.0,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        shares = {
            "crop_share": crop_share,
            "mask_share": mask_share,
            "reorder_share": reorder_share,
        }
        for name, share in shares.items():
            if not 0 < share <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {share}")
        super().__init__(
            num_items,
            dim=dim,
            num_layers=num_layers,
            num_heads=num_heads,
            history_length=history_length,
            dropout=dropout,
            feedforward_dim=feedforward_dim,
            positions=positions,
            norm=norm,
            contrast_weight=contrast_weight,
            contrast_temperature=contrast_temperature,
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        self.settings |= shares
        self.shares = shares
        self.mask_vector = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.mask_vector, std=0.02)

    def copies(
        self, batch: Batch
    ) -> tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]:
        """Returns two changed copies of each history."""
        return self._copy(batch.history), self._copy(batch.history)

    def _copy(self, history: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        """Returns a copy of each history, changed in one of the three ways."""
        lengths = (history != self.num_items).sum(1, keepdim=True)  # [batch, 1]
        ways = torch.stack(
            [
                cropped(history, lengths, self.shares["crop_share"], padding=self.num_items),
                masked(history, lengths, self.shares["mask_share"], mask=self.mask_item),
                reordered(history, lengths, self.shares["reorder_share"]),
            ]
        )
        drawn = torch.randint(len(ways), (len(history),), device=history.device)
        return ways[drawn, torch.arange(len(history), device=history.device)]


def cropped(
    history: Int[Tensor, "batch length"],
    lengths: Int[Tensor, "batch 1"],
    share: float,
    *,
    padding: int,
) -> Int[Tensor, "batch length"]:
    """Returns a contiguous part of each history, at least one item, padded on the right."""
    start, size = _stretch(lengths, share, least=1)
    return stretch_of(history, start, size, padding=padding)


def stretch_of(
    history: Int[Tensor, "batch length"],
    start: Int[Tensor, "batch 1"],
    size: Int[Tensor, "batch 1"],
    *,
    padding: int,
) -> Int[Tensor, "batch length"]:
    """Returns the items of each history from `start` on, `size` of them, padded on the right."""
    columns = torch.arange(history.shape[1], device=history.device)
    moved = history.gather(1, (columns + start).clamp(max=history.shape[1] - 1))
    return moved.masked_fill(columns >= size, padding)


def masked(
    history: Int[Tensor, "batch length"],
    lengths: Int[Tensor, "batch 1"],
    share: float,
    *,
    mask: int,
) -> Int[Tensor, "batch length"]:
    """Returns each history with some of its items masked."""
    columns = torch.arange(history.shape[1], device=history.device)
    drawn = torch.rand(history.shape, device=history.device).masked_fill(columns >= lengths, 2.0)
    rank = drawn.argsort(1).argsort(1)  # a random rank of each place in its history
    return history.masked_fill(rank < (share * lengths).long(), mask)


def reordered(
    history: Int[Tensor, "batch length"], lengths: Int[Tensor, "batch 1"], share: float
) -> Int[Tensor, "batch length"]:
    """Returns each history with a contiguous part of it shuffled."""
    columns = torch.arange(history.shape[1], device=history.device).expand_as(history)
    start, size = _stretch(lengths, share, least=0)
    inside = (columns >= start) & (columns < start + size)
    drawn = start + size * torch.rand(history.shape, device=history.device)
    # After sorting by these numbers, the part is still between the items before and after it.
    order = torch.where(inside, drawn, columns.to(drawn.dtype)).argsort(dim=1, stable=True)
    return history.gather(1, order)


def _stretch(
    lengths: Int[Tensor, "batch 1"], share: float, *, least: int
) -> tuple[Int[Tensor, "batch 1"], Int[Tensor, "batch 1"]]:
    """Returns a random start and the size of a contiguous part of each history."""
    size = (share * lengths).long().clamp(min=least)
    latest = (lengths - size).clamp(min=0)
    drawn = torch.rand(lengths.shape, device=lengths.device) * (latest + 1)
    return drawn.long().minimum(latest), size
