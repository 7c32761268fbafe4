"""Item vectors that are the sums of the vectors of the items' codes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


class CodeTable(nn.Module):
    """One learned vector per code; an item's vector is the sum of the vectors of its codes.

    Items with equal codes have equal vectors. The codes are not in the state dict; a model folder
    stores them like stored content.

    Args:
        codes: Codes of each item, one per level.
        codebook_sizes: Number of codes at each level.
        dim: Width of the vectors.

    Raises:
        ValueError: `dim` is below 1, there is no item or level, there is not one size per level, or
            a code is outside its level's range.
    """

    codes: Tensor
    rows: Tensor

    def __init__(
        self, codes: Int[Tensor, "items levels"], codebook_sizes: Sequence[int], dim: int
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        if not codes.numel() or len(codebook_sizes) != codes.shape[1]:
            raise ValueError(
                "codes must be of at least one item and level, and codebook_sizes one number a "
                f"level, got shape {tuple(codes.shape)} and sizes {tuple(codebook_sizes)}"
            )
        sizes = torch.tensor(codebook_sizes, device=codes.device)
        if bool(((codes < 0) | (codes >= sizes)).any()):
            raise ValueError(
                f"codes must be from 0 up to codebook_sizes {tuple(codebook_sizes)}, got from "
                f"{codes.amin(dim=0).tolist()} to {codes.amax(dim=0).tolist()}"
            )
        self.codebook_sizes = tuple(codebook_sizes)
        self.register_buffer("codes", codes.long(), persistent=False)
        # The vectors of all codes in one table, level after level.
        self.register_buffer("rows", self.codes + sizes.cumsum(0) - sizes, persistent=False)
        self.vectors = nn.Parameter(torch.empty(sum(codebook_sizes), dim))
        # The sums have the same spread as the vectors of an `ItemTable`.
        nn.init.normal_(self.vectors, std=0.02 / len(codebook_sizes) ** 0.5)

    def codebooks(self) -> tuple[Float[Tensor, "codes dim"], ...]:
        """Returns the vectors of the codes of each level."""
        codebooks: tuple[Tensor, ...] = torch.split(self.vectors, list(self.codebook_sizes))
        return codebooks

    def forward(self) -> Float[Tensor, "items dim"]:
        """Returns the vectors of all items."""
        return F.embedding_bag(self.rows, self.vectors, mode="sum")
