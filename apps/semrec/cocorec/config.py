"""CoCoRec's configuration: views, codes, the model and its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from genrec import NextItemRecipe, SequenceRecipe

from semrec.shared.configuration import check_at_least
from semrec.shared.data import Answering, AppConfig, Data, check_texts, field_groups
from semrec.shared.plugins import check_part, part_field

if TYPE_CHECKING:
    from genrec import PairBatches, SequenceBatches


@dataclass(frozen=True, kw_only=True)
class Views:
    """The text embeddings Z^t, one per view (section 2.2.1).

    Attributes:
        embedding: "minilm" (offline), "lsa", a sentence-transformers name or folder, or a file of
            stored embeddings. The paper's is Sentence-T5 base.
        views: The catalogue's fields of each view, joined by "+". The paper has title, brand,
            features, categories and description, each as one view.
        dim: PCA dimensions of each view.
        whiten: Whether PCA gives every dimension the same variance, as in the authors' code.
    """

    embedding: str = "minilm"
    views: tuple[str, ...] = ("title", "brand", "categories")
    dim: int = 128
    whiten: bool = True

    def __post_init__(self) -> None:
        if not self.views or not all(self.fields):
            raise ValueError(f"views must name fields, such as 'title', got {self.views}")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError(f"views must be different ones, got {self.views}")
        check_at_least(1, self, "dim")

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """The fields of each view."""
        return field_groups(self.views)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The semantic codes (section 2.2.2).

    Attributes:
        quantizer: Product or residual quantization, "pq" or "rq"; the paper's tables have both. Or
            "package.module:Name", a `semtok.Quantizer` of another package.
        codes_per_view: k, the number of codes of each view.
        codebook_size: C, the number of values of a code.
        source: The quantized embeddings: the text; the items of a SASRec on ids; "mixed", half of
            each view's codes from either (figure 2); or "random" codes.
    """

    quantizer: str = part_field("pq", ("pq", "rq"))
    codes_per_view: int = 4
    codebook_size: int = 256
    source: Literal["text", "random", "sasrec", "mixed"] = "text"

    def __post_init__(self) -> None:
        check_part(self, "quantizer")
        if self.codes_per_view < 1:
            raise ValueError(f"codes_per_view must be at least 1, got {self.codes_per_view}")
        if self.codebook_size < 2:
            raise ValueError(f"codebook_size must be at least 2, got {self.codebook_size}")
        if self.source == "mixed" and self.codes_per_view % 2:
            raise ValueError(
                f'codes_per_view must be even where source is "mixed", got {self.codes_per_view}'
            )
        if self.source == "random" and self.quantizer != "pq":
            raise ValueError(
                'quantizer must be left out where source is "random", which quantizes nothing, '
                f"got {self.quantizer!r}"
            )


@dataclass(frozen=True, kw_only=True)
class Model(SequenceRecipe):
    """The model and its training (sections 2.3, 2.4 and 3.1.4; rates of the authors' code).

    Differs: by default layer norms are before the backbone's sub-layers; in the authors' code they
    are after them (`norm`). Instead of the paper's pairs we use causal windows that overlap by half
    (`samples`), so that a target may see fewer than 20 items. All items are negatives; the authors'
    code draws 24,000. In eq. 7 no prefix of a user's history is a negative of another prefix of the
    same user. Gradients are clipped. Attention and feed-forward parts have biases, which eq. 1 to 4
    do not print. The layer norms of the baselines are always before the sub-layers. `paper.toml`
    has the paper's settings, except for the negatives of eq. 7, the biases and the baselines' layer
    norms.

    Attributes:
        temperature: tau of eq. 5 to 8, which all compare by cosine.
        num_negatives: Negatives drawn uniformly for a step, with logQ correction; 0 uses all items
            (the authors' code draws about 24,000 of 24,587).
        num_layers: Layers of the backbone, L_r.
        feedforward_dim: Inner width of the feed-forward parts of both modules.
        norm: Whether the backbone's layer norms are before the sub-layers, "pre", or after them,
            "post". Positions are counted from the oldest item in both.
        dropout: Dropout of the backbone.
        fusion_layers: Layers of the semantic-fusion module, L.
        fusion_dropout: Dropout of the semantic-fusion module.
        pooling: Whether Pool(Z^c) is added to Pool(H) for all items, as in the "paper", or not for
            those of the history, as in the authors' "code".
        read_views: False lets the codes attend to themselves instead of the views (table 4).
        mask_ratio: rho, the share of masked codes.
        alpha: Weight of masked code modelling (eq. 6); 0 leaves it out.
        beta: Weight of masked sequence alignment (eq. 7-8); 0 leaves it out.
        samples: "sequences" are windows with a target at every position, in one causal pass;
            "pairs" are all prefixes with their next items, as in the paper. Both have the same
            targets in an epoch.
        batch_size: Windows, or pairs (the paper has 400, which some 60 windows hold).
        checkpoint_items: Most items whose activations the semantic-fusion module stores. More items
            pass in portions of this size, which are recomputed in the backward pass.
        weight_decay: Weight decay of AdamW.
    """

    num_negatives: int = 0
    num_layers: int = 2
    num_heads: int = 2
    feedforward_dim: int = 512
    norm: Literal["pre", "post"] = "pre"
    dropout: float = 0.1
    fusion_layers: int = 2
    fusion_dropout: float = 0.2
    pooling: Literal["paper", "code"] = "paper"
    read_views: bool = True
    mask_ratio: float = 0.5
    alpha: float = 0.5
    beta: float = 0.3
    samples: Literal["sequences", "pairs"] = "sequences"
    checkpoint_items: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    batch_size: int = 64
    epochs: int = 100
    patience: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("fusion_layers", "feedforward_dim", "num_layers", "checkpoint_items")
        check_at_least(1, self, *names)
        for name in ("alpha", "beta"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.fusion_dropout < 1:
            raise ValueError(f"fusion_dropout must be in [0, 1), got {self.fusion_dropout}")
        if not 0 < self.mask_ratio <= 1:
            raise ValueError(f"mask_ratio must be in (0, 1], got {self.mask_ratio}")
        if self.similarity != "cosine":
            raise ValueError(f"similarity must be 'cosine' (eq. 5), got {self.similarity!r}")
        if not self.alpha and not self.beta and self.mask_ratio != Model.mask_ratio:
            raise ValueError(
                "mask_ratio must be left out where alpha and beta are 0 and nothing is masked, "
                f"got {self.mask_ratio}"
            )

    def batches(
        self, histories: Sequence[Any], num_items: int, seed: int
    ) -> PairBatches | SequenceBatches:
        """The training batches."""
        if self.samples == "sequences":
            return self.sequences(histories, num_items, seed)
        return self.pairs(histories, num_items, seed)


@dataclass(frozen=True, kw_only=True)
class ItemIds(NextItemRecipe):
    """Fine-tuning of an id table on top of the frozen model, by eq. 5 alone (section 3.4.5).

    Attributes:
        targets: Whether the table is also added to the item vectors that states are compared with.
            The paper says that it is "fed as input to the sequential recommender", whose inputs and
            scored vectors are the same; False takes these words literally.
        weight_decay: Weight decay of AdamW.
    """

    targets: bool = True
    weight_decay: float = 1e-4
    num_negatives: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"


@dataclass(frozen=True, kw_only=True)
class Evaluation(Answering):
    """How models are chosen and tested.

    Attributes:
        baselines: Whether SASRec on ids and on text is also trained (table 3).
        baseline_dropout: Dropout of these and of the other sequence models; the model's if unset. A
            table of ids overfits sooner than codes that items share.
    """

    baselines: bool = True
    baseline_dropout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline_dropout is not None and not 0 <= self.baseline_dropout < 1:
            raise ValueError(f"baseline_dropout must be in [0, 1), got {self.baseline_dropout}")


@dataclass(frozen=True, kw_only=True)
class Config(AppConfig):
    """The whole configuration of a CoCoRec run."""

    views: Views = field(default_factory=Views)
    codes: Codes = field(default_factory=Codes)
    model: Model = field(default_factory=Model)
    item_ids: ItemIds = field(default_factory=ItemIds)
    evaluation: Evaluation = field(default_factory=Evaluation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.views.dim != self.model.dim:
            raise ValueError(
                "views.dim must be model.dim, since codes attend to views, "
                f"got {self.views.dim} and {self.model.dim}"
            )
        if self.codes.quantizer == "pq" and self.views.dim < self.codes.codes_per_view:
            raise ValueError(
                "codes.codes_per_view must be at most views.dim, which product quantization "
                f"splits, got {self.codes.codes_per_view} and {self.views.dim}"
            )
        levels = self.codes.codes_per_view * len(self.views.views)
        shares = {"sasrec": levels, "mixed": levels // 2}  # the number of codes from SASRec's items
        if self.codes.quantizer == "pq" and self.model.dim < shares.get(self.codes.source, 0):
            raise ValueError(
                "codes.codes_per_view must leave model.dim a dimension for each code of the items "
                f"of SASRec, got {shares[self.codes.source]} codes and {self.model.dim} dimensions"
            )

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The embedding of the views."""
        return (self.views.embedding,)

    @property
    def quantizers(self) -> tuple[str, ...]:
        """The quantizer of the codes."""
        return (self.codes.quantizer,)

    def training_samples(self, data: Data) -> dict[str, int]:
        """The number of the model's samples, on which an id table is also trained."""
        single = dataclasses.replace(self.model, batch_size=1)
        samples = len(single.batches(data.split.train, len(data.catalog), self.seed))
        return {"model": samples, "item_ids": samples}

    def check_items(self, data: Data) -> list[Path]:
        """Refuses views without any field in the catalogue."""
        check_texts(self.views.embedding, self.views.fields, data.catalog)
        return []
