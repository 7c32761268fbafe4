"""TSSR's stages in order: content embeddings, floors, the model, SASRec beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from evalrec import Report
from genrec import Backbone, Batch
from jaxtyping import Float
from semtok import ImageEmbedding
from torch import Tensor, nn

from semrec.shared.data import (
    embed_texts,
    embedding_stage,
    fit_and_test_floors,
    keep_items,
    read_embedded,
    standardised,
)
from semrec.shared.item_tables import Items, item_table
from semrec.shared.run import write_json
from semrec.shared.setting import Setting
from semrec.shared.training import DenseTraining, dense_stage, load_weights, save_weights
from semrec.tssr.config import Config, Model
from semrec.tssr.encoders import ContentEncoder, encoder_counts, precomputed
from semrec.tssr.model import TwoStream, baseline_loss, kept_model, sasrec, tssr_loss
from semrec.tssr.report import BASELINES, MODEL, agreement, content_stages, metrics, write_page

Loss = Callable[[Model, nn.Module, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Pipeline(Setting):
    """The stages of a run, or of a variant of it that a study needs."""

    config: Config

    @cached_property
    def contents(self) -> list[Float[Tensor, "items dim"]]:
        """The stored content embeddings, one array a stream: a stage each, as "content_title"."""
        content = self.config.content
        for stage, fields in zip(self._content_stages(), content.fields, strict=True):
            if content.is_image(fields):
                source = ImageEmbedding(
                    model=content.image_embedding,
                    weights=content.image_weights,
                    image_field=content.image_field,
                    device=str(self.device),
                )
                embedding_stage(
                    self.run,
                    stage,
                    lambda bar, source=source: source.embed(  # type: ignore[misc]
                        self.data.catalog, progress=bar.update
                    ),
                    content.image_embedding,
                )
                continue
            embed_texts(
                self.run,
                self.data,
                content.embedding,
                fields,
                device=str(self.device),
                seed=self.run.config["seed"],
                stage=stage,
            )
        return read_contents(self.run.path, self._content_stages(), content.dim)

    def _content_stages(self) -> list[str]:
        content = self.config.content
        image = ("content.image_embedding", "content.image_weights", "content.image_field")
        return [
            self.stage(stage, *(image if content.is_image(fields) else ("content.embedding",)))
            for stage, fields in zip(content_stages(self.config), content.fields, strict=True)
        ]

    def tssr(self) -> Report:
        """The stage "tssr": trains the two-stream model and tests its ranking."""
        config = self.config

        def build() -> TwoStream:
            contents: Sequence[Tensor | ContentEncoder]
            if config.content.mode == "stored":
                contents = self.contents
            else:  # with weights that are drawn
                contents = config.content.encoders(self.data.catalog, config.model.dim)
            return TwoStream(config.model, contents)

        return self._train("tssr", build, tssr_loss)

    def baseline(self, items: Items) -> Report:
        """SASRec on ids, on content or on both, as deep as the two-stream model (table 1)."""
        config, contents = self.config.model, self.contents
        depth = config.num_layers + config.num_cross_layers

        def build() -> Backbone:
            table = item_table(items, contents, config.dim)
            return sasrec(config, len(contents[0]), table, depth)

        return self._train(f"sasrec_{items}", build, baseline_loss)

    def _train(self, name: str, build: Callable[[], Backbone], loss: Loss) -> Report:
        config = self.config.model
        plan = DenseTraining(
            model=lambda: build().to(self.device),
            loss=partial(loss, config),
            batches=config.sequences(
                self.data.split.train, len(self.data.catalog), self.config.seed
            ),
            training=config,
            history_length=config.history_length,
            validation=self.validation,
            test=self.data.split.test,
            ks=self.config.evaluation.ks,
            seed=self.config.seed,
            keep=lambda model, folder: save_weights(
                folder / "weights.safetensors", precomputed(model)
            ),
            scored=precomputed,
            facts=self._facts,
        )
        return dense_stage(self.run, self._model_stage(name), plan)

    def _facts(self, model: nn.Module) -> dict[str, Any]:
        end_to_end = self.config.content.mode == "end-to-end"
        return {"encoder_parameters": encoder_counts(model)} if end_to_end else {}

    def _model_stage(self, name: str) -> str:
        return self.stage(name, "seed", "content", "model", "evaluation")

    def model(self) -> TwoStream:
        """The trained model."""
        folder = self.run.path / self._model_stage("tssr")
        return load_model(
            self.run.path, folder, self.config, self._content_stages(), len(self.data.catalog)
        )


def read_contents(run: Path, stages: Sequence[str], dim: int) -> list[Float[Tensor, "items dim"]]:
    """The content embeddings that some stages left, reduced and standardised."""
    return [standardised(read_embedded(run, stage), dim) for stage in stages]


def load_model(
    run: Path, folder: Path, config: Config, contents: Sequence[str], num_items: int
) -> TwoStream:
    """The model that the stage "tssr" left; it needs no content encoder.

    Args:
        run: The run.
        folder: The stage's.
        config: Its configuration.
        contents: The stages of the content embeddings; there are none end to end.
        num_items: Size of the catalogue.
    """
    if config.content.mode == "end-to-end":
        model = kept_model(config.model, num_items, len(contents))
    else:
        model = TwoStream(config.model, read_contents(run, contents, config.content.dim))
    load_weights(folder / "weights.safetensors", model)
    return model.eval()


def run_stages(pipeline: Pipeline) -> dict[str, Report]:
    """Goes through the stages, skipping those that are complete; writes metrics and report.

    Returns:
        Test reports: the model, the baselines, the floors.
    """
    run, data, config = pipeline.run, pipeline.data, pipeline.config
    keep_items(run, data)
    texts = [names for names in config.content.fields if not config.content.is_image(names)]
    text_fields = tuple(dict.fromkeys(name for names in texts for name in names))
    floors = fit_and_test_floors(run, data, text_fields, config.evaluation.ks)
    reports = {MODEL: pipeline.tssr()}
    if config.evaluation.baselines:
        for items, title in BASELINES.items():
            reports[title] = pipeline.baseline(items)
    reports |= floors
    model = pipeline.model()
    streams = agreement(config, model)
    write_json(run.path / "metrics.json", metrics(run, data, config, reports, streams))
    write_page(run, data, config, reports, streams, model)
    return reports
