"""PRORec's stage I: text embeddings are adapted to the collaborative space and aligned with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fusion.contrast import Similarity, contrast_terms, info_nce


class AdaLN(nn.Module):
    """Layer normalisation whose scale and shift are predicted from the input itself.

    ``AdaLN(x) = LayerNorm(x) * (1 + scale(x)) + shift(x)`` with ``scale, shift = Linear(SiLU(x))``.
    The weights of this linear layer start at zero, so training starts from plain normalisation.

    PRORec, eq. 2, after DiT's adaLN-Zero. The paper leaves open what the layer is conditioned on
    beyond "according to the input"; here the input is its own condition.

    Args:
        dim: Width of the last axis.

    Raises:
        ValueError: ``dim`` is less than 1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}")
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Normalise, scale and shift the last axis."""
        modulation: Tensor = self.modulation(F.silu(x))
        scale, shift = modulation.chunk(2, dim=-1)
        normalised: Tensor = self.norm(x)
        return normalised * (1 + scale) + shift


class ModalityAdaptionLayer(nn.Module):
    """Maps semantic embeddings into the space of collaborative ones: ``AdaLN(W x + b)``.

    PRORec, eq. 2: ``x`` is E_S and the result is E_T. Before training, each row of the result has
    mean 0 and a norm close to sqrt(dim).

    Args:
        in_dim: Width of the semantic embeddings.
        dim: Width of the collaborative embeddings.

    Raises:
        ValueError: ``in_dim`` or ``dim`` is less than 1.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        if in_dim < 1:
            raise ValueError(f"in_dim must be at least 1, got {in_dim}")
        self.adaln = AdaLN(dim)
        self.projection = nn.Linear(in_dim, dim)

    def forward(self, semantic: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch dim"]:
        """Adapt the last axis from ``in_dim`` to ``dim``."""
        adapted: Tensor = self.adaln(self.projection(semantic))
        return adapted


def alignment_loss(
    collaborative: Float[Tensor, "batch dim"],
    adapted: Float[Tensor, "batch dim"],
    item_rows: Int[Tensor, " batch"] | None = None,
    *,
    temperature: float,
    similarity: Similarity = "cosine",
    include_positive: bool = True,
    sum_inside_log: bool = False,
) -> Float[Tensor, ""]:
    """Cross-modality alignment: each item's collaborative embedding towards its own adapted text.

    PRORec, eq. 3, with E_C as ``collaborative``, E_T as ``adapted`` and tau as ``temperature``. The
    other items of the batch are the negatives, in the direction that the paper writes. The paper
    does not fix sim and tau.

    Differs: the formula as printed leaves the positive out of the denominator and sums over the
    items inside the logarithm. The best aligned item then takes nearly all of the gradient. The
    defaults here are the InfoNCE that the paper's text names; the printed formula is an option.

    Args:
        collaborative: Embeddings of the batch's items from interactions.
        adapted: Embeddings of the same items from `ModalityAdaptionLayer`.
        item_rows: The item of each row. Give it when items may repeat in a batch: two rows of the
            same item are then not each other's negatives.
        temperature: Divides the similarities.
        similarity: ``cosine`` or raw ``dot`` product.
        include_positive: Keep the positive in the denominator; False is the paper's "j != i".
        sum_inside_log: Sum over the items inside the logarithm, as printed.

    Returns:
        The mean over the items, in nats; with ``sum_inside_log``, the single logarithm. 0 if no
        item of the batch has a negative.

    Raises:
        ValueError: ``temperature`` is not positive or ``similarity`` is unknown.
    """
    if not sum_inside_log:
        return info_nce(
            collaborative,
            adapted,
            temperature=temperature,
            similarity=similarity,
            include_positive=include_positive,
            ids=item_rows,
        )
    terms, counted = contrast_terms(
        collaborative,
        adapted,
        temperature=temperature,
        similarity=similarity,
        include_positive=include_positive,
        ids=item_rows,
        valid=None,
    )
    if not counted.any():
        return terms.sum()
    return -torch.logsumexp(-terms[counted], dim=0)
