"""UniSRec: SASRec over text embeddings from a mixture of experts (Hou et al., KDD 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import check_sizes
from genrec.backbones.sasrec import SASRec


class UniSRec(SASRec):
    """SASRec whose item vectors come from texts through `ContentExperts`, with or without ids.

    Only the item encoder differs from `SASRec`. The paper uses cosine similarity.

    Differs: layers and positions are those of this library's `SASRec`. It is trained on one
    catalogue from the start; the original is pretrained on others by contrastive tasks.

    Its arguments are those of `SASRec`.
    """


class ContentExperts(nn.Module):
    """A mixture of linear experts over stored content: UniSRec's MoE-enhanced adaptor.

    Each expert subtracts a learned vector and multiplies by a matrix (the paper's parametric
    whitening). The weights of the experts are a softmax that depends on the content. In training,
    noise is added to its logits; the scale of the noise depends on the content too.

    Args:
        features: Content embeddings, row i for item i; not trained, and not in the state dict.
        dim: Width of the vectors.
        num_experts: Number of experts: G in the paper.
        with_ids: Whether a learned vector per item is added (the paper's transductive setting).

    Raises:
        ValueError: A size is not positive, or the features are not finite or all alike.
    """

    features: Tensor

    def __init__(
        self,
        features: Float[Tensor, "items feature_dim"],
        dim: int,
        *,
        num_experts: int = 8,
        with_ids: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, num_experts=num_experts)
        spread = features.std().item()
        if not 0 < spread < float("inf"):
            raise ValueError(
                f"features must be finite and not all alike, got standard deviation {spread}"
            )
        num_items, feature_dim = features.shape
        self.register_buffer("features", features, persistent=False)
        self.shifts = nn.Parameter(torch.zeros(num_experts, feature_dim))
        self.experts = nn.Parameter(torch.empty(num_experts, feature_dim, dim))
        nn.init.normal_(self.experts, std=0.02 / spread)
        # The gate starts with equal weights, and its noise with the same scale for all items.
        self.gate = nn.Parameter(torch.zeros(feature_dim, num_experts))
        self.noise = nn.Parameter(torch.zeros(feature_dim, num_experts))
        self.ids = nn.Parameter(torch.empty(num_items, dim)) if with_ids else None
        if self.ids is not None:
            nn.init.normal_(self.ids, std=0.02)

    def forward(self) -> Float[Tensor, "items dim"]:
        """Returns the vectors of all items."""
        logits = self.features @ self.gate  # [items, experts]
        if self.training:
            scale = F.softplus(self.features @ self.noise)
            logits = logits + torch.randn_like(logits) * scale
        # (x - b) W of each expert, without [experts, items, feature_dim].
        shifted = torch.einsum("gf,gfd->gd", self.shifts, self.experts)
        adapted = torch.einsum("nf,gfd->ngd", self.features, self.experts) - shifted
        vectors: Tensor = torch.einsum("ng,ngd->nd", logits.softmax(dim=1), adapted)
        return vectors if self.ids is None else vectors + self.ids
