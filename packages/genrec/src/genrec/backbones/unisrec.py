"""UniSRec: SASRec over texts that experts adapt (Hou et al., KDD 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.backbones.items import check_sizes
from genrec.backbones.sasrec import SASRec


class UniSRec(SASRec):
    """SASRec whose items are told by their texts through `ContentExperts`, with or without ids.

    The item encoder is all that sets it apart. The paper compares by the cosine.

    Differs: layers and positions are those of `SASRec` here; it is trained on one catalogue from
    the start, without the contrastive tasks that pretrain the original on others.

    Its arguments are those of `SASRec`.
    """


class ContentExperts(nn.Module):
    """Stored content through a mixture of linear experts: UniSRec's MoE-enhanced adaptor.

    Each expert subtracts a learned vector and multiplies by a matrix (the paper's parametric
    whitening); a softmax over the experts, which depends on the content, weighs them. In training,
    noise whose scale depends on the content is added to its logits.

    Args:
        features: Content embeddings, row i for item i; not trained, and no part of the state dict.
        dim: Width of the vectors.
        num_experts: Experts: G in the paper.
        with_ids: Whether a learned vector an item is added, as in the paper's transductive setting.

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
        # The gate starts from equal weights, and its noise from the same scale for all.
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
