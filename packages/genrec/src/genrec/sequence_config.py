"""A sequence model and its training in one configuration, so that backbones are compared fairly.

Only the backbone differs: sizes, item vectors, loss, negatives, windows and budget are the same.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from genrec.backbone_names import plugin_backbone
from genrec.backbones import (
    FDSA,
    HGN,
    HSTU,
    RPG,
    BERT4Rec,
    Caser,
    CL4SRec,
    CodeTable,
    ContentExperts,
    ContentTable,
    DuoRec,
    EnsRec,
    FeatureTables,
    FMLPRec,
    GRU4Rec,
    ItemInput,
    ItemTable,
    S3Rec,
    SASRec,
    StateBackbone,
    TedRec,
    UniSRec,
    VQRec,
    item_table,
)
from genrec.cloze import MaskedBatches
from genrec.plugins import is_plugin
from genrec.recipes import SequenceRecipe
from genrec.sequences import Batch, PairBatches, SequenceBatches
from genrec.twins import TwinBatches
from genrec.windows import Histories

BackboneName = Literal[
    "sasrec",
    "gru4rec",
    "bert4rec",
    "hstu",
    "caser",
    "hgn",
    "fmlprec",
    "cl4srec",
    "duorec",
    "fdsa",
    "unisrec",
    "s3rec",
    "tedrec",
    "vqrec",
    "rpg",
    "ensrec",
]
"""The sequence models that a `SequenceModelConfig` can name."""

_BACKBONES: dict[BackboneName, type[StateBackbone]] = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "bert4rec": BERT4Rec,
    "hstu": HSTU,
    "caser": Caser,
    "hgn": HGN,
    "fmlprec": FMLPRec,
    "cl4srec": CL4SRec,
    "duorec": DuoRec,
    "fdsa": FDSA,
    "unisrec": UniSRec,
    "s3rec": S3Rec,
    "tedrec": TedRec,
    "vqrec": VQRec,
    "rpg": RPG,
    "ensrec": EnsRec,
}

_PAIRS: dict[BackboneName, type[PairBatches]] = {
    "fmlprec": PairBatches,
    "duorec": TwinBatches,
    "tedrec": PairBatches,
}
"""Backbones trained on pairs, one target per history, instead of a target at every position."""

ITEM_INPUTS: Mapping[str, tuple[ItemInput, ...]] = {
    "fdsa": ("both",),
    "unisrec": ("content", "both"),
    "s3rec": ("ids", "both"),
    "tedrec": ("both",),
    "vqrec": ("content",),
    "rpg": ("content",),
    "ensrec": ("both",),
}
"""The item inputs that a backbone supports, for backbones that do not support all of them."""

BACKBONE_TITLES: dict[BackboneName, str] = {
    name: kind.__name__ for name, kind in _BACKBONES.items()
}
"""The names of the backbones in tables."""

CODED_BACKBONES = ("vqrec", "rpg")
"""The backbones that read the codes of the content."""

_SIZES = (
    *("dim", "num_layers", "num_heads", "history_length", "dropout", "similarity", "temperature"),
)

_ITEM_TITLES: dict[ItemInput, str] = {
    "ids": "ids",
    "content": "content",
    "both": "ids and content",
}


def backbone_class(name: BackboneName | str, *, trust: Collection[str] = ()) -> type[StateBackbone]:
    """Returns the class of a sequence model.

    Args:
        name: One of `BACKBONE_TITLES`, or "package.module:Name" for a class of another package.
        trust: The packages whose code may run.

    Raises:
        ArtifactError: The package is not trusted, or has no such sequence model.
        ValueError: There is no sequence model of this name.
    """
    for known, kind in _BACKBONES.items():
        if known == name:
            return kind
    if not is_plugin(name):
        raise ValueError(
            f"backbone must be one of {', '.join(_BACKBONES)}, or package.module:Name of another "
            f"package, got {name!r}"
        )
    return plugin_backbone(name, trust, kind=StateBackbone)


def make_backbone(
    name: BackboneName | str,
    num_items: int,
    recipe: SequenceRecipe,
    *,
    item_encoder: nn.Module,
    trust: Collection[str] = (),
) -> StateBackbone:
    """Returns an untrained sequence model with the sizes of a recipe.

    Args:
        name: As in `backbone_class`.
        num_items: Size of the catalogue.
        recipe: The sizes. The class receives those of `dim`, `num_layers`, `num_heads`,
            `history_length`, `dropout`, `similarity` and `temperature` that it accepts.
        item_encoder: Module whose `forward()` returns [num_items, dim].
        trust: The packages whose code may run.

    Raises:
        ArtifactError: The package is not trusted, or has no such sequence model.
        ValueError: There is no sequence model of this name, or a size is out of range.
    """
    kind = backbone_class(name, trust=trust)
    takes = inspect.signature(kind).parameters
    sizes = {size: getattr(recipe, size) for size in _SIZES if size in takes}
    return kind(num_items, item_encoder=item_encoder, **sizes)


@dataclass(frozen=True, kw_only=True)
class SequenceModelConfig(SequenceRecipe):
    """A sequence model that scores all items, and its training.

    `fit(config.model(num_items), config.batches(histories, num_items, seed), config.loss_terms,
    config.settings(seed, monitor=...), validate=...)` is the whole training.

    Attributes:
        backbone: The sequence model. "bert4rec" predicts masked items; "fmlprec", "tedrec" and
            "duorec" predict the next item of each prefix, and a batch has `batch_size` such pairs;
            the others predict the next item at every step. HSTU reads no timestamps here. GRU4Rec
            and FMLPRec have no heads, Caser and HGN no heads and no layers, and ignore these sizes.
            "package.module:Name" is a `StateBackbone` of another package.
        items: The item vectors that it reads and ranks: id embeddings, stored content through a
            linear layer, or both concatenated. FDSA and TedRec require "both": they read ids and
            content, and rank by the ids. EnsRec requires "both" and ranks by both. S3Rec ranks by
            the ids, and "both" adds its tasks on content. UniSRec reads content through experts,
            and "both" adds the ids. VQRec and RPG read the codes of the content.

    Raises:
        ValueError: A value is out of range.
    """

    backbone: BackboneName | str = "sasrec"
    items: ItemInput = "ids"

    def __post_init__(self) -> None:
        super().__post_init__()
        choices: dict[str, object] = {"items": ItemInput}
        if not is_plugin(self.backbone):
            choices["backbone"] = BackboneName
        for name, words in choices.items():
            if getattr(self, name) not in get_args(words):
                raise ValueError(
                    f"{name} must be one of {get_args(words)}, got {getattr(self, name)!r}"
                )

        inputs = ITEM_INPUTS.get(self.backbone, get_args(ItemInput))
        if self.items not in inputs:
            raise ValueError(
                f"items must be one of {inputs} where backbone is {self.backbone!r}, got "
                f"{self.items!r}"
            )

    @property
    def title(self) -> str:
        """The name of the model in tables, with its item vectors: "SASRec, ids"."""
        titles: Mapping[str, str] = dict(BACKBONE_TITLES.items())
        backbone = titles.get(self.backbone, self.backbone.rpartition(":")[2])  # or its class
        return f"{backbone}, {_ITEM_TITLES[self.items]}"

    def model(
        self,
        num_items: int,
        contents: Sequence[Float[Tensor, "items _"]] = (),
        *,
        codes: Int[Tensor, "items levels"] | None = None,
        trust: Collection[str] = (),
    ) -> StateBackbone:
        """Returns the untrained model; its weights come from torch's default generator.

        Args:
            num_items: Size of the catalogue.
            contents: Content embeddings, row i for item i, one array per modality; ignored if
                `items` is "ids" or the backbone reads codes.
            codes: Codes of the content of each item, for "vqrec" and "rpg".
            trust: The packages whose code may run, if the backbone is from another package.

        Raises:
            ArtifactError: That package is not trusted, or has no such sequence model.
            ValueError: The model requires content or codes but there are none, or a size is out of
                range.
        """
        if self.backbone in CODED_BACKBONES:
            if codes is None:
                raise ValueError(f"codes must be given where backbone is {self.backbone!r}")
            sizes = (codes.amax(dim=0) + 1).tolist()
            table: nn.Module = CodeTable(codes, sizes, self.dim)
        elif self.items == "ids":
            table = ItemTable(num_items, self.dim)
        elif not contents:
            raise ValueError(f"contents must be given where items is {self.items!r}, got none")
        else:
            table = self._content_tables(num_items, contents)
        return make_backbone(self.backbone, num_items, self, item_encoder=table, trust=trust)

    def _content_tables(
        self, num_items: int, contents: Sequence[Float[Tensor, "items _"]]
    ) -> nn.Module:
        """Returns the tables of a model that reads content as it is stored."""

        def experts(*, with_ids: bool = False) -> nn.Module:
            return ContentExperts(torch.cat(list(contents), dim=1), self.dim, with_ids=with_ids)

        if self.backbone == "unisrec":
            return experts(with_ids=self.items == "both")
        features: dict[str, Callable[[], list[nn.Module]]] = {
            "fdsa": lambda: [ContentTable(content, self.dim) for content in contents],
            "s3rec": lambda: [ContentTable(content, self.dim) for content in contents],
            "tedrec": lambda: [experts()],
            "ensrec": lambda: [item_table("content", contents, self.dim)],
        }
        if self.items == "both" and self.backbone in features:
            return FeatureTables(ItemTable(num_items, self.dim), features[self.backbone]())
        return item_table(self.items, contents, self.dim)

    def batches(
        self, histories: Histories, num_items: int, seed: int
    ) -> SequenceBatches | PairBatches:
        """Returns the training batches: whole sequences, with masked items for BERT4Rec.

        FMLPRec, TedRec and DuoRec are trained on pairs. The pairs of DuoRec have twins.

        Args:
            histories: Item rows of each user, oldest first.
            num_items: Size of the catalogue, and the padding.
            seed: Seed of the order of the batches, of the masks and, if `data_share` is below 1,
                of the sample of users.

        Raises:
            ValueError: An item is not a row of the catalogue, or no history has two items.
        """
        if self.backbone in _PAIRS:
            return self.pairs(histories, num_items, seed, kind=_PAIRS[self.backbone])
        kind = MaskedBatches if self.backbone == "bert4rec" else SequenceBatches
        return self.sequences(histories, num_items, seed, kind=kind)

    def loss_terms(self, model: StateBackbone, batch: Batch) -> dict[str, Tensor]:
        """Returns the named loss terms that `fit` minimises, in nats.

        "next_item" is the cross-entropy of the targets against sampled negatives or all items; for
        EnsRec it is the sum over its two models, for RPG the mean over the targets' codes. CL4SRec
        and DuoRec add "contrast", S3Rec one term per task.

        Args:
            model: A model of this configuration.
            batch: A batch of this configuration, on the model's device.
        """
        loss = self.loss
        negatives = loss.draw(model.num_items, batch.history.device)
        vectors = model.item_vectors()
        by_pair = batch.targets.ndim == 1
        states = (model.last_state if by_pair else model)(batch.history, vectors)
        softmax = partial(loss, negatives=negatives)
        return {
            "next_item": model.next_item_loss(states, vectors, batch.targets, softmax),
            **model.further_losses(batch, vectors),
        }
