"""TSSR's stages in order: content embeddings, floors, the model, SASRec beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from commands import Setting
from evalrec import Report
from experiment import write_json
from genrec import Backbone, Batch
from item_tables import Items, item_table
from jaxtyping import Float
from stages import embed_texts, fit_and_test_floors, keep_items, read_embedded, standardised
from torch import Tensor, nn
from training import DenseTraining, dense_stage, load_weights, save_weights
from tssr_model import Config, Model, TwoStream, baseline_loss, sasrec, tssr_loss
from tssr_page import BASELINES, MODEL, content_stages, metrics, write_page

Loss = Callable[[Model, nn.Module, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Pipeline(Setting):
    """The stages of a run, or of a variant of it that a study needs."""

    config: Config

    def contents(self) -> list[Float[Tensor, "items dim"]]:
        """The content embeddings, one array a stream: a stage each, such as "content_title"."""
        content = self.config.content
        for stage, fields in zip(content_stages(self.config), content.fields, strict=True):
            embed_texts(
                self.run,
                self.data,
                content.embedding,
                fields,
                device=str(self.device),
                seed=self.run.config["seed"],
                stage=self.stage(stage, "content.embedding"),
            )
        return self.read_contents()

    def read_contents(self) -> list[Float[Tensor, "items dim"]]:
        """The content embeddings that the run keeps."""
        return read_contents(
            self.run.path,
            self.config,
            [self.stage(stage, "content.embedding") for stage in content_stages(self.config)],
        )

    def tssr(self) -> Report:
        """The stage "tssr": trains the two-stream model and tests its ranking."""
        contents = self.contents()
        return self._train("tssr", lambda: TwoStream(self.config.model, contents), tssr_loss)

    def baseline(self, items: Items) -> Report:
        """SASRec on ids, on content or on both, as deep as the two-stream model (table 1)."""
        config, contents = self.config.model, self.contents()
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
            keep=lambda model, folder: save_weights(folder / "weights.safetensors", model),
        )
        return dense_stage(self.run, self._model_stage(name), plan)

    def _model_stage(self, name: str) -> str:
        return self.stage(name, "seed", "content", "model", "evaluation")

    def model(self) -> TwoStream:
        """The trained model."""
        folder = self.run.path / self._model_stage("tssr")
        return load_model(folder, self.config, self.read_contents())


def read_contents(
    run: Path, config: Config, stages: Sequence[str]
) -> list[Float[Tensor, "items dim"]]:
    """The content embeddings that some stages left, reduced and standardised."""
    return [standardised(read_embedded(run, stage), config.content.dim) for stage in stages]


def load_model(folder: Path, config: Config, contents: list[Tensor]) -> TwoStream:
    """The model that the stage "tssr" left in its folder."""
    model = TwoStream(config.model, contents)
    load_weights(folder / "weights.safetensors", model)
    return model.eval()


def run_stages(pipeline: Pipeline) -> dict[str, Report]:
    """Goes through the stages, skipping those that are complete; writes metrics and report.

    Returns:
        Test reports: the model, the baselines, the floors.
    """
    run, data, config = pipeline.run, pipeline.data, pipeline.config
    keep_items(run, data)
    pipeline.contents()
    text_fields = tuple(dict.fromkeys(name for names in config.content.fields for name in names))
    floors = fit_and_test_floors(run, data, text_fields, config.evaluation.ks)
    reports = {MODEL: pipeline.tssr()}
    if config.evaluation.baselines:
        for items, title in BASELINES.items():
            reports[title] = pipeline.baseline(items)
    reports |= floors
    model = pipeline.model()
    write_json(run.path / "metrics.json", metrics(run, data, config, reports, model))
    write_page(run, data, config, reports, model)
    return reports
