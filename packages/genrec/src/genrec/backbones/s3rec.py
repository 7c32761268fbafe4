"""S3-Rec: SASRec with four self-supervised tasks (Zhou et al., CIKM 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrec.backbones.cl4srec import stretch_of
from genrec.backbones.items import FeatureTables
from genrec.backbones.masked_items import MaskedItems
from genrec.backbones.sasrec import SASRec
from genrec.config_checks import Similarity
from genrec.layers import Norm
from genrec.losses import in_batch_cross_entropy
from genrec.sequences import Batch


class S3Rec(MaskedItems, SASRec):
    """SASRec whose layers are also trained by four self-supervised tasks with masked items.

    The tasks use attention in both directions. `further_losses` returns one loss per task:

    - the paper's masked item prediction predicts a masked item;
    - its segment prediction predicts a masked segment of a history;
    - its associated attribute prediction predicts the features of an item;
    - its masked attribute prediction predicts the features of a masked item.

    The last two tasks require a `FeatureTables` as the item encoder. In each task the candidates
    come from the batch. If these losses are minimised alone, before the next-item loss, this is the
    paper's pretraining.

    Differs: `SequenceModelConfig` minimises all losses together, without pretraining. A feature is
    a vector of stored content, one per item; the paper has attributes that several items share.
    Each task has its own matrix, which maps its queries. They are then compared with the candidates
    as states are compared with items. The negatives are the other candidates of the batch; the
    paper has one negative.

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
        mask_share: Share of the items that are masked.
        masked_item_weight: Weight of masked item prediction. All default weights are the authors'.
        masked_segment_weight: Weight of segment prediction.
        item_feature_weight: Weight of associated attribute prediction.
        masked_feature_weight: Weight of masked attribute prediction.
        item_encoder: Module whose `forward()` returns [num_items, dim]; the features of a
            `FeatureTables` are read in training only.
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
        mask_share: float = 0.2,
        masked_item_weight: float = 0.2,
        masked_segment_weight: float = 0.5,
        item_feature_weight: float = 1.0,
        masked_feature_weight: float = 1.0,
        item_encoder: nn.Module | None = None,
        similarity: Similarity = "dot",
        temperature: float = 1.0,
    ) -> None:
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share must be between 0 and 1, got {mask_share}")
        weights = {
            "masked_item_weight": masked_item_weight,
            "masked_segment_weight": masked_segment_weight,
            "item_feature_weight": item_feature_weight,
            "masked_feature_weight": masked_feature_weight,
        }
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name} must be at least 0, got {weight}")
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
            item_encoder=item_encoder,
            similarity=similarity,
            temperature=temperature,
        )
        self.settings |= {"mask_share": mask_share, **weights}
        self.mask_share = mask_share
        self.weights = {name.removesuffix("_weight"): value for name, value in weights.items()}
        self.mask_vector = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.mask_vector, std=0.02)
        tasks = ["masked_item", "masked_segment"]
        if isinstance(self.item_encoder, FeatureTables):
            tasks += ["item_feature", "masked_feature"]
        # The paper's W, one per task.
        self.meet = nn.ModuleDict({task: nn.Linear(dim, dim, bias=False) for task in tasks})

    def further_losses(
        self, batch: Batch, item_vectors: Float[Tensor, "items dim"]
    ) -> dict[str, Tensor]:
        """Returns one weighted loss per task, in nats.

        The keys are "masked_item" and "masked_segment". With a `FeatureTables` as the item encoder
        there are also "item_feature" and "masked_feature".
        """
        history = batch.history
        is_masked = self._drawn(history)
        states = self.states_both_ways(history.masked_fill(is_masked, self.mask_item), item_vectors)
        targets = history.masked_fill(~is_masked, self.num_items)  # [batch, length]
        context, segment = self.masked_stretches(history, item_vectors)
        losses = {
            "masked_item": self._told("masked_item", states, item_vectors, targets),
            "masked_segment": self._told(
                "masked_segment", context, segment, torch.arange(len(context)).to(history.device)
            ),
        }
        if isinstance(self.item_encoder, FeatureTables):
            features = self.item_encoder.features().unbind(1)  # [items, dim] each
            items: Tensor = torch.unique(history[history < self.num_items])
            vectors = item_vectors[items]
            losses |= {
                name: torch.stack(
                    [self._told(name, x, feature, rows) for feature in features]
                ).mean()
                for name, x, rows in (
                    ("item_feature", vectors, items),
                    ("masked_feature", states, targets),
                )
            }
        return {name: self.weights[name] * loss for name, loss in losses.items()}

    def states_both_ways(
        self, history: Int[Tensor, "batch length"], item_vectors: Float[Tensor, "items dim"]
    ) -> Float[Tensor, "batch length dim"]:
        """Returns states with attention in both directions; states at padding are undefined."""
        x, padding = self._input(history, item_vectors)
        for layer in (*self.layers, self.last_layer):
            x = layer(x, padding=padding)
        states: Tensor = self.norm(x)
        return states

    def masked_stretches(
        self, history: Int[Tensor, "batch length"], item_vectors: Float[Tensor, "items dim"]
    ) -> tuple[Float[Tensor, "kept dim"], Float[Tensor, "kept dim"]]:
        """Returns the states of histories with a masked segment, and the states of the segments.

        A segment has between one item and half of the items. Histories of one item are left out.
        """
        lengths = (history < self.num_items).sum(1, keepdim=True)
        history, lengths = history[lengths[:, 0] > 1], lengths[lengths[:, 0] > 1]
        drawn = torch.rand(2, *lengths.shape, device=history.device)
        size = 1 + (drawn[0] * (lengths // 2)).long()
        start = (drawn[1] * (lengths - size + 1)).long()
        columns = torch.arange(history.shape[1], device=history.device)
        inside = (columns >= start) & (columns < start + size)  # [kept, length]
        context, segment = (
            self.newest(self.states_both_ways(part, item_vectors), part)
            for part in (
                history.masked_fill(inside, self.mask_item),
                stretch_of(history, start, size, padding=self.num_items),
            )
        )
        return context, segment

    def _drawn(self, history: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
        """Returns which items are masked, at random."""
        drawn = torch.rand(history.shape, device=history.device) < self.mask_share
        return drawn & (history < self.num_items)

    def _told(self, task: str, x: Tensor, candidates: Tensor, rows: Tensor) -> Tensor:
        """Returns the cross-entropy of the target row of each query in `x`.

        The candidates are the target rows of the whole batch.
        """
        return in_batch_cross_entropy(
            self.meet[task](x),
            candidates,
            rows,
            similarity=self.similarity,
            temperature=self.temperature,
        )
