"""TSSR end to end: a file of items and a file of interactions to recommended item ids.

Empowering Sequential Recommendation from Collaborative Signals and Semantic Relatedness, stage by
stage: content embeddings; the floors; SASRec on ids, on content and on both, with the same budget
(table 1); the two-stream model, aligned by user-grained and item-grained contrast and joined by
cross-attention and a gate. Each stage is a folder of the run.

    python apps/tssr.py run --data DIR --out RUN
    python apps/tssr.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/tssr.py demo --out RUN
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import typer
from answers import (
    ForceOption,
    HistoryOption,
    InputOption,
    OutputOption,
    RunOption,
    SeenOption,
    TopKOption,
    answer,
    check_answer_options,
)
from commands import (
    ConfigOption,
    DataOption,
    DemoSeedOption,
    DeviceOption,
    EmbeddingOption,
    OutOption,
    SeedOption,
    Setting,
    chosen,
    demo_data,
    run_app,
)
from evalrec import DataError, Report
from experiment import (
    build_config,
    choose_device,
    guarded,
    load_config,
    read_json,
    write_json,
)
from genrec import (
    ArtifactError,
    Backbone,
    Batch,
    DenseRecommender,
    SequenceBatches,
)
from item_tables import Items, item_table
from jaxtyping import Float
from semtok import CatalogError
from stages import (
    check_complete,
    embed_texts,
    fit_and_test_floors,
    keep_items,
    read_embedded,
    read_items,
    standardised,
)
from torch import Tensor, nn
from training import DenseTraining, dense_stage, load_weights, save_weights
from tssr_model import (
    Config,
    Content,
    Evaluation,
    Model,
    TwoStream,
    baseline_loss,
    sasrec,
    tssr_loss,
)
from tssr_page import BASELINES, MODEL, content_stages, metrics, write_page

Loss = Callable[[Model, nn.Module, Batch], Mapping[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Pipeline(Setting):
    """The stages of a run."""

    config: Config

    def contents(self) -> list[Float[Tensor, "items dim"]]:
        """The content embeddings, one array a stream: the stages "content_1", ..."""
        content = self.config.content
        for stage, fields in zip(content_stages(self.config), content.fields, strict=True):
            embed_texts(
                self.run,
                self.data,
                content.embedding,
                fields,
                device=str(self.device),
                seed=self.config.seed,
                stage=stage,
            )
        return read_contents(self.run.path, self.config)

    def train(self, name: str, build: Callable[[], Backbone], loss: Loss) -> Report:
        """A stage that trains a model and tests its ranking."""
        config = self.config.model
        plan = DenseTraining(
            model=lambda: build().to(self.device),
            loss=partial(loss, config),
            batches=SequenceBatches(
                self.data.split.train,
                num_items=len(self.data.catalog),
                history_length=config.history_length,
                batch_size=config.batch_size,
                stride=max(config.history_length // 2, 1),
                seed=self.config.seed,
                bucket=20,
            ),
            training=config,
            history_length=config.history_length,
            validation=self.validation,
            test=self.data.split.test,
            ks=self.config.evaluation.ks,
            seed=self.config.seed,
            keep=lambda model, folder: save_weights(folder / "weights.safetensors", model),
        )
        return dense_stage(self.run, name, plan)


def read_contents(run: Path, config: Config) -> list[Float[Tensor, "items dim"]]:
    """The content embeddings that a run keeps, reduced and standardised."""
    return [
        standardised(read_embedded(run, stage), config.content.dim)
        for stage in content_stages(config)
    ]


def baseline(name: Items, config: Model, contents: list[Tensor]) -> Backbone:
    """SASRec on "ids", on "content" or on "both", as deep as the two-stream model."""
    encoder = item_table(name, contents, config.dim)
    return sasrec(config, len(contents[0]), encoder, config.num_layers + config.num_cross_layers)


def run_stages(pipeline: Pipeline) -> dict[str, Report]:
    """Goes through the stages, skipping those that are complete; writes metrics and report.

    Returns:
        Test reports: the model, the baselines, the floors.
    """
    run, data, config = pipeline.run, pipeline.data, pipeline.config
    keep_items(run, data)
    contents = pipeline.contents()
    text_fields = tuple(dict.fromkeys(name for names in config.content.fields for name in names))
    floors = fit_and_test_floors(run, data, text_fields, config.evaluation.ks)
    reports = {MODEL: pipeline.train("tssr", lambda: TwoStream(config.model, contents), tssr_loss)}
    if config.evaluation.baselines:
        for name, title in BASELINES.items():
            build = partial(baseline, name, config.model, contents)
            reports[title] = pipeline.train(f"sasrec_{name}", build, baseline_loss)
    reports |= floors
    model = load_model(run.path, config)
    write_json(run.path / "metrics.json", metrics(run, data, config, reports, model))
    write_page(run, data, config, reports, model)
    return reports


def load_model(run: Path, config: Config) -> TwoStream:
    """The trained model of a run."""
    model = TwoStream(config.model, read_contents(run, config))
    load_weights(run / "tssr/weights.safetensors", model)
    return model.eval()


DEMO = Config(
    content=Content(embedding="lsa", dim=64),
    model=Model(dim=64, batch_size=64, epochs=8, warmup_steps=50),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""

app = typer.Typer(
    help="TSSR: from items and interactions to recommended item ids.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    data: DataOption,
    out: OutOption,
    config: ConfigOption = None,
    embedding: EmbeddingOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train, test, and write report.html; the same command continues a stopped run."""
    _run(data, out, chosen(load_config(Config, config), "content", embedding, seed), device)


@app.command()
def demo(
    out: OutOption,
    seed: DemoSeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """The same on a small synthetic catalogue, which is made first: a few minutes on a CPU."""
    _run(demo_data(out), out, dataclasses.replace(DEMO, seed=seed), device)


def _run(folder: Path, out: Path, config: Config, device: str) -> None:
    def stages(setting: Setting) -> dict[str, Report]:
        return run_stages(Pipeline(**vars(setting)))

    run_app(MODEL, stages, folder, out, config, config.content.embedding, device)


@app.command()
def recommend(
    run: RunOption,
    history: HistoryOption = None,
    source: InputOption = None,
    output: OutputOption = None,
    top_k: TopKOption = 10,
    exclude_seen: SeenOption = False,
    force: ForceOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Item ids, titles and scores for one history, or for a file of them, streamed."""
    check_answer_options(history, source, output)
    check_complete(run)
    config: Config = build_config(Config, read_json(run / "run.json")["config"], str(run))
    recommender = recommender_of(run, config, choose_device(device))
    stream = partial(recommender.stream, top_k=top_k, exclude_seen=exclude_seen, unknown="error")
    answer(
        run, stream, recommender.rows, history=history, source=source, output=output, force=force
    )


def recommender_of(run: Path, config: Config, device: torch.device) -> DenseRecommender:
    """The recommender of a run's model."""
    items = read_items(run)
    return DenseRecommender(
        load_model(run, config).to(device),
        [item["item_id"] for item in items],
        history_length=config.model.history_length,
        popularity=torch.tensor([item["count"] for item in items]),
    )


if __name__ == "__main__":
    guarded(app, (ArtifactError, CatalogError, DataError))
