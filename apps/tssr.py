"""TSSR end to end: a file of items and a file of interactions to recommended item ids.

Empowering Sequential Recommendation from Collaborative Signals and Semantic Relatedness, stage by
stage: content embeddings; the floors; SASRec on ids, on content and on both, with the same budget
(table 1); the two-stream model, aligned by user-grained and item-grained contrast and joined by
cross-attention and a gate. Each stage is a folder of the run.

    python apps/tssr.py run --data DIR --out RUN
    python apps/tssr.py study NAME --data DIR --out RUN
    python apps/tssr.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/tssr.py demo --out RUN
"""

from __future__ import annotations

import dataclasses
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
    chosen,
    demo_data,
    open_run,
    show_results,
)
from evalrec import DataError
from experiment import build_config, choose_device, guarded, load_config, read_json
from genrec import ArtifactError, DenseRecommender
from semtok import CatalogError
from stages import check_complete, read_items
from studies import (
    SeedsOption,
    StudyArgument,
    choose_study,
    parse_seeds,
    run_study,
    studies_help,
)
from tssr_model import Config, Content, Evaluation, Model
from tssr_page import MODEL, content_stages
from tssr_stages import Pipeline, load_model, read_contents, run_stages
from tssr_studies import STUDIES

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
    pipeline = _open(folder, out, config, device)
    show_results(MODEL, pipeline.run, run_stages(pipeline))


def _open(folder: Path, out: Path, config: Config, device: str) -> Pipeline:
    setting = open_run(MODEL, folder, out, config, config.content.embedding, device)
    return Pipeline(**vars(setting))


@app.command(help=studies_help(STUDIES))
def study(
    name: StudyArgument,
    data: DataOption,
    out: OutOption,
    config: ConfigOption = None,
    embedding: EmbeddingOption = None,
    seed: SeedOption = None,
    seeds: SeedsOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Train the variants of a study; see `studies_help`."""
    resolved = chosen(load_config(Config, config), "content", embedding, seed)
    found, all_seeds = choose_study(STUDIES, name), parse_seeds(seeds, resolved.seed)
    run_study(name, found, _open(data, out, resolved, device), all_seeds, run_stages)


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
    contents = read_contents(run, config, content_stages(config))
    return DenseRecommender(
        load_model(run / "tssr", config, contents).to(device),
        [item["item_id"] for item in items],
        history_length=config.model.history_length,
        popularity=torch.tensor([item["count"] for item in items]),
    )


if __name__ == "__main__":
    guarded(app, (ArtifactError, CatalogError, DataError))
