"""CoCoRec's stages in order: views, codes, the model, its deployed form, the baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import Report
from genrec import (
    CODED_BACKBONES,
    Backbone,
    BackboneName,
    DenseRecommender,
    ItemInput,
    SequenceModelConfig,
    load_weights,
    save_weights,
)
from jaxtyping import Float, Int
from semtok import Pca, SemanticIds, Tokenizer, load_tokenizer, quantizer_kind, save_tokenizer
from torch import Tensor

from semrec.cocorec.config import Config, ItemIds, Model
from semrec.cocorec.deployed import Deployed, deployed, item_id_loss, load_deployed, with_item_ids
from semrec.cocorec.model import CoCoRec, cocorec_loss
from semrec.shared.answering import AnsweringPipeline
from semrec.shared.exporting import ItemIndex
from semrec.shared.files import read_json, save_anew
from semrec.shared.stage import Facts, Stage
from semrec.shared.stages import Vectors, embedding_stage
from semrec.shared.training import DenseTraining, baseline_stage, dense_stage, keep_weights

MODEL = "CoCoRec"
"""The model's row in tables."""

BASELINES: dict[ItemInput, str] = {"ids": "SASRec, ids", "content": "SASRec, text"}
"""Rows of the baselines, by their inputs."""


class CoCoRecPipeline(AnsweringPipeline[Config]):
    """The stages of a run, or of a variant of a run in a study."""

    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run in order, without "data"."""
        trained = (self.cocorec, *self.baselines().values())
        return (*self.view_stages, self.tokenizer, self.floors, *trained, self.answer)

    def systems(self) -> dict[str, Stage[Report]]:
        """The model and the baselines."""
        return {MODEL: self.cocorec, **self.baselines()}

    title = MODEL

    @property
    def model_stage(self) -> Stage[Report]:
        """The stage of the model."""
        return self.cocorec

    def recommender_of(self, stage: Stage[Report]) -> DenseRecommender:
        """The recommender by the deployed model, or by a baseline.

        The deployed model's items are already fused, so it has the cost of SASRec.
        """
        if stage.name == self.cocorec.name:
            return self._answering(self.deployed())
        (items,) = (kind for kind in BASELINES if stage.name == f"sasrec_{kind}")
        return self._answering(self.trained_baseline(items))

    def _answering(self, model: Backbone) -> DenseRecommender:
        return DenseRecommender(
            model.to(self.device),
            self.item_ids,
            history_length=self.config.model.history_length,
            popularity=self.item_counts,
        )

    def item_index(self) -> ItemIndex:
        """The fused item vectors of the deployed model."""
        model = self.deployed()
        inputs, _ = model.tables()
        return ItemIndex.of_model(
            model, "the deployed model's", self.config.model.history_length, inputs=inputs
        )

    def vectors(self) -> dict[str, Float[np.ndarray, "items dim"]]:
        """Z^t by the stages' names, such as "view_title", and the deployed model's "items"."""
        return {**self.named_views, "items": self.deployed().item_vectors().detach().numpy()}

    # Section 2.2.1: text embeddings, one per view.

    reads_text_fields = ("views.views",)

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields of all views."""
        return tuple(dict.fromkeys(name for names in self.config.views.fields for name in names))

    @cached_property
    def view_stages(self) -> tuple[Stage[Vectors], ...]:
        """One stage per view, such as "view_title": its embeddings before PCA, and the PCA."""
        views = self.config.views

        def keep_scale(folder: Path, vectors: Vectors) -> None:
            save_anew(folder / "pca", reduction(vectors, views.dim, views.whiten).save)

        return tuple(
            embedding_stage(
                self,
                "_".join(["view", *fields]),
                views.embedding,
                fields,
                reads=("views.embedding", "views.dim", "views.whiten"),
                keep_scale=keep_scale,
            )
            for fields in views.fields
        )

    def pca(self, view: Stage[Vectors]) -> Pca:
        """The PCA of a view: the stored one; fitted on the view in runs of older versions.

        Raises:
            CatalogError: The stored PCA is damaged.
        """
        kept = view.file("pca")
        if kept.exists():
            return Pca.load(kept)
        return reduction(view.result(), self.config.views.dim, self.config.views.whiten)

    @cached_property
    def views(self) -> list[Vectors]:
        """Z^t: one array per view, reduced by PCA; narrow embeddings are padded with zeros."""
        dim = self.config.views.dim
        return [padded(self.pca(view).transform(view.result()), dim) for view in self.view_stages]

    @property
    def named_views(self) -> dict[str, Vectors]:
        """Z^t by the stages' names, such as "view_title"."""
        return dict(zip((stage.name for stage in self.view_stages), self.views, strict=True))

    # Section 2.2.2: semantic codes.

    @cached_property
    def tokenizer(self) -> Stage[SemanticIds]:
        """The stage "tokenizer": the codes, with a tokenizer for each source."""
        collaborative = self.config.codes.source in ("sasrec", "mixed")

        def fill(folder: Path) -> Facts:
            fitted = self._tokenizers()
            for name, tokenizer in fitted.items():
                save_tokenizer(folder / name, tokenizer, overwrite=True)
            return {"sources": list(fitted)}

        def load(folder: Path) -> SemanticIds:
            sources = read_json(folder / "stage.json")["sources"]
            tokenizers = (load_tokenizer(folder / name, trust=self.run.trust) for name in sources)
            return side_by_side([tokenizer.semantic_ids for tokenizer in tokenizers])

        return self.stage(
            "tokenizer",
            reads=("seed", "views", "codes"),
            after=(*self.view_stages, *([self.baseline("ids")] if collaborative else [])),
            fill=fill,
            load=load,
        )

    def codes(self) -> SemanticIds:
        """The items' codes, concatenated over views; an update also stores those of removed items.

        While a stage is filled, the items are those of the data.
        """
        known = self.item_ids if self.inputs is None else self.data.catalog.item_ids
        return self.tokenizer.result().take(known)

    def _tokenizers(self) -> dict[str, Tokenizer]:
        """The tokenizers of the codes, by their sources."""
        codes, views = self.config.codes, self.views
        per_view, total = codes.codes_per_view, codes.codes_per_view * len(views)
        if codes.source == "random":
            # Drawn over all views at once, so that items with the same brand do not share a random
            # code.
            fused = {"random": np.concatenate(views, axis=1)}
            return {"random": self._tokenizer(fused, "random", total)}
        tokenizers = {}
        if codes.source in ("text", "mixed"):
            share = per_view if codes.source == "text" else per_view // 2
            tokenizers["text"] = self._tokenizer(self.named_views, codes.quantizer, share)
        if codes.source in ("sasrec", "mixed"):
            share = total if codes.source == "sasrec" else total // 2
            items = self.trained_baseline("ids").item_vectors().detach().cpu().numpy()
            # Product quantization needs parts of equal length.
            width = items.shape[1] // share * share if codes.quantizer == "pq" else 0
            width = width or items.shape[1]
            items = padded(reduction(items, width, whiten=False).transform(items), width)
            tokenizers["sasrec"] = self._tokenizer({"sasrec": items}, codes.quantizer, share)
        return tokenizers

    def _tokenizer(
        self, vectors: Mapping[str, Vectors], quantizer: str, num_levels: int
    ) -> Tokenizer:
        with self.run.screen.bar("codes") as bar:
            return Tokenizer.fit(
                self.data.catalog,
                embeddings=vectors,
                fuse=len(vectors) == 1,
                quantizer=partial(
                    quantizer_kind(quantizer, trust=self.run.trust).fit,
                    num_levels=num_levels,
                    codebook_size=self.config.codes.codebook_size,
                    seed=self.config.seed,
                ),
                policy="allow",
                progress=lambda _, done, total: bar.update(done, total),
            )

    # Sections 2.3 and 2.4: the semantic-fusion module and the backbone, trained together.

    @cached_property
    def cocorec(self) -> Stage[Report]:
        """The stage "cocorec": trains the model and tests its ranking."""

        def plan() -> DenseTraining:
            return self._plan(self.config.model, self.untrained, cocorec_loss, keep_model)

        return dense_stage(
            self,
            "cocorec",
            plan,
            reads=("views", "codes", "model"),
            after=(*self.view_stages, self.tokenizer),
        )

    def untrained(self) -> CoCoRec:
        """The model before training."""
        ids = self.codes()
        views = torch.from_numpy(np.stack(self.views, axis=1))  # [items, views, dim]
        return CoCoRec(self.config.model, torch.from_numpy(ids.codes), ids.codebook_sizes, views)

    def model(self) -> CoCoRec:
        """The trained model."""
        model = self.untrained()
        load_weights(self.cocorec.file("weights.safetensors"), model)
        return model.eval()

    def deployed(self) -> Deployed:
        """The trained model without its semantic-fusion module (appendix A)."""
        return load_deployed(self.cocorec.file("deployed.safetensors"), self.config.model)

    # Section 3.4.5: item ids on top.

    @cached_property
    def item_ids_on_top(self) -> Stage[Report]:
        """The stage "item_ids": the frozen model and an id table, fine-tuned."""
        config = self.config.item_ids

        def plan() -> DenseTraining:
            return self._plan(
                config,
                lambda: with_item_ids(self.deployed(), config),
                item_id_loss,
                lambda model, folder: save_weights(folder / "deployed.safetensors", model),
            )

        return dense_stage(self, "item_ids", plan, reads=("item_ids",), after=(self.cocorec,))

    def _plan(self, training: Model | ItemIds, model: Any, loss: Any, keep: Any) -> DenseTraining:
        config = self.config.model
        batches = dataclasses.replace(config, batch_size=training.batch_size).batches(
            self.data.split.train, len(self.data.catalog), self.config.seed
        )
        return DenseTraining(
            model=lambda: model().to(self.device),
            loss=partial(loss, training),
            batches=batches,
            training=training,
            history_length=config.history_length,
            keep=keep,
        )

    # Table 3: sequence models with the same sizes and training.

    def baselines(self) -> dict[str, Stage[Report]]:
        """The stages of the baselines of a run, by their rows."""
        wanted = BASELINES if self.config.evaluation.baselines else {}
        return {title: self.baseline(items) for items, title in wanted.items()}

    def baseline(self, items: ItemInput, backbone: BackboneName = "sasrec") -> Stage[Report]:
        """A sequence model on ids, on the views' texts, on both, or on the codes."""
        reads = ("model", "evaluation.baseline_dropout")
        reads_codes = backbone in CODED_BACKBONES
        reads_views = items != "ids" and not reads_codes
        return baseline_stage(
            self,
            f"{backbone}_{items}",
            self._baseline(items, backbone),
            self._contents,
            reads=(*reads, "views") if reads_views else reads,
            after=(self.tokenizer,) if reads_codes else self.view_stages if reads_views else (),
            codes=self._code_table if reads_codes else None,
        )

    def trained_baseline(self, items: ItemInput, backbone: BackboneName = "sasrec") -> Backbone:
        """The trained model of a baseline."""
        reads_codes = backbone in CODED_BACKBONES
        contents = self._contents() if items != "ids" and not reads_codes else []
        num_items = len(self.item_ids if self.inputs is None else self.data.catalog)
        model = self._baseline(items, backbone).model(
            num_items, contents, codes=self._code_table() if reads_codes else None
        )
        load_weights(self.baseline(items, backbone).file("weights.safetensors"), model)
        return model.eval()

    def _baseline(self, items: ItemInput, backbone: BackboneName) -> SequenceModelConfig:
        names = {field.name for field in dataclasses.fields(SequenceModelConfig)}
        sizes = {name: value for name, value in vars(self.config.model).items() if name in names}
        dropout = self.config.evaluation.baseline_dropout
        if dropout is not None:
            sizes["dropout"] = dropout
        return SequenceModelConfig(**{**sizes, "items": items, "backbone": backbone})

    def _code_table(self) -> Int[Tensor, "items levels"]:
        return torch.from_numpy(self.codes().codes)

    def _contents(self) -> list[Float[Tensor, "items dim"]]:
        return [torch.from_numpy(view).to(self.device) for view in self.views]


def keep_model(model: CoCoRec, folder: Path) -> None:
    """Saves a trained model and its deployed form."""
    keep_weights(model, folder)
    save_weights(folder / "deployed.safetensors", deployed(model))


def reduction(vectors: Vectors, dim: int, whiten: bool) -> Pca:
    """The first principal components; fewer than `dim` for narrow embeddings or few items."""
    return Pca.fit(vectors, dim=min(dim, *vectors.shape), whiten=whiten)


def padded(components: Vectors, dim: int) -> Float[np.ndarray, "items dim"]:
    """Components padded with zeros to the width `dim`."""
    return np.pad(components, ((0, 0), (0, dim - components.shape[1])))


def side_by_side(parts: list[SemanticIds]) -> SemanticIds:
    """The codes of several tokenizers, concatenated."""
    if len(parts) == 1:
        return parts[0]
    codes: Int[np.ndarray, "items levels"] = np.concatenate([p.codes for p in parts], axis=1)
    return SemanticIds(
        codes=codes,
        codebook_sizes=tuple(size for part in parts for size in part.codebook_sizes),
        item_ids=parts[0].item_ids,
        allow_collisions=True,
    )
