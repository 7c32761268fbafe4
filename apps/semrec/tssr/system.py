"""TSSR's stages in order: content embeddings, the two-stream model, the baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import Report
from fusion import ContentEncoder, VectorTable, encoder_counts, precomputed
from genrec import (
    Backbone,
    BackboneName,
    Batch,
    DenseRecommender,
    ItemInput,
    SequenceModelConfig,
    item_table,
    load_weights,
)
from jaxtyping import Float
from semtok import Standardisation
from torch import Tensor, nn

from semrec.shared.answering import AnsweringPipeline
from semrec.shared.exporting import ItemIndex
from semrec.shared.files import save_anew
from semrec.shared.stage import Stage
from semrec.shared.stages import Vectors, embedding_stage, kept_standardisation
from semrec.shared.training import DenseTraining, baseline_stage, dense_stage, keep_weights
from semrec.tssr.config import Config, Model
from semrec.tssr.encoders import content_encoders
from semrec.tssr.model import TwoStream, baseline_loss, kept_model, sasrec, tssr_loss

Loss = Callable[[Model, nn.Module, Batch], Mapping[str, Tensor]]

MODEL = "TSSR"
"""The model's row in tables."""

BASELINES: dict[ItemInput, str] = {
    "ids": "SASRec, ids",
    "content": "SASRec, content",
    "both": "SASRec, ids and content",
}
"""Rows of the baselines, by their inputs."""


class TSSRPipeline(AnsweringPipeline[Config]):
    """The stages of a run, or of a variant of a run in a study."""

    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run in order, without "data"."""
        contents = self.content_stages if self.is_stored or self.baselines() else ()
        return (*contents, self.floors, self.tssr, *self.baselines().values(), self.answer)

    def systems(self) -> dict[str, Stage[Report]]:
        """The model and the baselines."""
        return {MODEL: self.tssr, **self.baselines()}

    title = MODEL

    @property
    def model_stage(self) -> Stage[Report]:
        """The stage of the model."""
        return self.tssr

    def recommender_of(self, stage: Stage[Report]) -> DenseRecommender:
        """The recommender by the model or a baseline; end-to-end content is a stored table."""
        if stage.name == self.tssr.name:
            return self._answering(self.model())
        (items,) = (kind for kind in BASELINES if stage.name == f"sasrec_{kind}")
        model = self._untrained_baseline(items)
        load_weights(stage.file("weights.safetensors"), model)
        return self._answering(model)

    def _answering(self, model: Backbone) -> DenseRecommender:
        return DenseRecommender(
            model.to(self.device),
            self.item_ids,
            history_length=self.config.model.history_length,
            popularity=self.item_counts,
        )

    def item_index(self) -> ItemIndex:
        """The two-stream model's item vectors, with the inputs of content streams as tables."""
        model = self.model()
        for stream, table in zip(model.streams, model.tables(), strict=True):
            stream.item_encoder = VectorTable(table.detach())
        return ItemIndex.of_model(model, "the model's", self.config.model.history_length)

    def vectors(self) -> dict[str, Float[np.ndarray, "items dim"]]:
        """Stored content by the stages' names, such as "content_title", and the model's "items"."""
        named = {}
        if self.is_stored:
            pairs = zip(self.content_stages, self.contents, strict=True)
            named = {stage.name: content.numpy() for stage, content in pairs}
        return {**named, "items": self.model().item_vectors().detach().numpy()}

    # Section 3.2: the content of items.

    reads_text_fields = ("content.streams", "content.image_field")

    @property
    def is_stored(self) -> bool:
        """Whether the model reads stored content instead of encoding it."""
        return self.config.content.mode == "stored"

    @property
    def text_fields(self) -> tuple[str, ...]:
        """The fields of all text streams."""
        content = self.config.content
        texts = [fields for fields in content.fields if not content.is_image(fields)]
        return tuple(dict.fromkeys(name for fields in texts for name in fields))

    @cached_property
    def content_stages(self) -> tuple[Stage[Vectors], ...]:
        """One stage per stream, such as "content_title": its stored embeddings and their scale."""
        content = self.config.content
        text = ("content.embedding",)
        image = ("content.image_embedding", "content.image_weights", "content.image_field")

        def keep_scale(folder: Path, vectors: Vectors) -> None:
            save_anew(folder / "standardisation", Standardisation.fit(vectors, content.dim).save)

        return tuple(
            embedding_stage(
                self,
                "_".join(["content", *fields]),
                content.image_source if content.is_image(fields) else content.embedding,
                fields,
                reads=("content.dim", *(image if content.is_image(fields) else text)),
                image_field=content.image_field,
                keep_scale=keep_scale,
            )
            for fields in content.fields
        )

    @cached_property
    def contents(self) -> list[Float[Tensor, "items dim"]]:
        """The stored content embeddings, one array per stream, reduced and standardised."""
        return [
            torch.from_numpy(self.standardisation(stage).transform(stage.result()))
            for stage in self.content_stages
        ]

    def standardisation(self, content: Stage[Vectors]) -> Standardisation:
        """The standardisation of a stream's content; in an update, the old run's."""
        return kept_standardisation(content, self.config.content.dim)

    # Sections 3.3 to 3.5: two streams, aligned by contrast, joined by attention and a gate.

    @cached_property
    def tssr(self) -> Stage[Report]:
        """The stage "tssr": trains the two-stream model and tests its ranking."""
        return self._trained(
            "tssr", self._untrained, tssr_loss, self.content_stages if self.is_stored else ()
        )

    def _untrained(self) -> TwoStream:
        content, model = self.config.content, self.config.model
        contents: Sequence[Tensor | ContentEncoder] = (
            self.contents
            if self.is_stored
            else content_encoders(content, self.data.catalog, model.dim)
        )
        return TwoStream(model, contents)

    def model(self) -> TwoStream:
        """The trained model, which needs no content encoder."""
        config = self.config.model
        if self.is_stored:
            model = TwoStream(config, self.contents)
        else:
            model = kept_model(config, len(self.item_ids), len(self.config.content.fields))
        load_weights(self.tssr.file("weights.safetensors"), model)
        return model.eval()

    # Table 1: SASRec with the same budget, by default as deep as the two-stream model.

    def baselines(self) -> dict[str, Stage[Report]]:
        """The stages of the baselines of a run, by their rows."""
        wanted = BASELINES if self.config.evaluation.baselines else {}
        return {title: self.baseline(items) for items, title in wanted.items()}

    def baseline(self, items: ItemInput) -> Stage[Report]:
        """SASRec on ids, on content or on both."""
        untrained = partial(self._untrained_baseline, items)
        reads = ("evaluation.baseline_layers",)
        return self._trained(
            f"sasrec_{items}", untrained, baseline_loss, self.content_stages, reads=reads
        )

    def rival(self, backbone: BackboneName, items: ItemInput) -> Stage[Report]:
        """Another sequence model, as deep as the baselines, on ids, on content or on both."""
        names = {field.name for field in dataclasses.fields(SequenceModelConfig)}
        sizes = {name: value for name, value in vars(self.config.model).items() if name in names}
        sizes |= {"num_layers": self._baseline_depth, "backbone": backbone, "items": items}
        reads = ("model", "evaluation.baseline_layers")
        reads_content = items != "ids"
        return baseline_stage(
            self,
            f"{backbone}_{items}",
            SequenceModelConfig(**sizes),
            lambda: self.contents,
            reads=(*reads, "content") if reads_content else reads,
            after=self.content_stages if reads_content else (),
        )

    def _untrained_baseline(self, items: ItemInput) -> Backbone:
        config = self.config.model
        table = item_table(items, self.contents, config.dim)
        return sasrec(config, len(self.contents[0]), table, self._baseline_depth)

    @property
    def _baseline_depth(self) -> int:
        config, depth = self.config.model, self.config.evaluation.baseline_layers
        return config.num_layers + config.num_cross_layers if depth is None else depth

    def _trained(
        self,
        name: str,
        untrained: Callable[[], Backbone],
        loss: Loss,
        after: tuple[Stage[Any], ...],
        reads: tuple[str, ...] = (),
    ) -> Stage[Report]:
        return dense_stage(
            self,
            name,
            lambda: self._plan(untrained, loss),
            reads=("content", "model", *reads),
            after=after,
        )

    def _plan(self, untrained: Callable[[], Backbone], loss: Loss) -> DenseTraining:
        config = self.config.model
        return DenseTraining(
            model=lambda: untrained().to(self.device),
            loss=partial(loss, config),
            batches=config.sequences(
                self.data.split.train, len(self.data.catalog), self.config.seed
            ),
            training=config,
            history_length=config.history_length,
            keep=lambda model, folder: keep_weights(precomputed(model), folder),
            scored=precomputed,
            facts=self._facts,
        )

    def _facts(self, model: nn.Module) -> dict[str, Any]:
        return {} if self.is_stored else {"encoder_parameters": encoder_counts(model)}
