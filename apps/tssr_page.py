"""What a TSSR run shows: metrics.json, how the streams agree, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import page
import torch
from evalrec import Report
from experiment import Run
from figures import scatter_panels, tsne_panel
from fusion import alignment_distance, uniformity
from genrec import DenseRecommender
from item_tables import Items
from jaxtyping import Float
from report import Section, table, write_report
from stages import Data
from studies import study_sections
from torch import Tensor
from tssr_config import Config
from tssr_model import TwoStream

MODEL = "TSSR"
"""The model's row in tables."""

BASELINES: dict[Items, str] = {
    "ids": "SASRec, ids",
    "content": "SASRec, content",
    "both": "SASRec, ids and content",
}
"""Rows of the baselines, by what they read."""


Agreement = dict[str, dict[str, float]]
"""By stream: "alignment" and "uniformity"."""


def content_stages(config: Config) -> tuple[str, ...]:
    """The stages of the content embeddings, named after their fields."""
    return tuple("_".join(["content", *fields]) for fields in config.content.fields)


def stages(config: Config) -> tuple[str, ...]:
    """All stages of a run."""
    baselines = (f"sasrec_{items}" for items in BASELINES if config.evaluation.baselines)
    return (*content_stages(config), "floors", "tssr", *baselines)


def metrics(
    run: Run, data: Data, config: Config, reports: Mapping[str, Report], streams: Agreement
) -> dict[str, Any]:
    """What metrics.json holds."""
    return page.metrics(run, data, stages(config), reports) | {"streams": streams}


def stream_tables(config: Config, model: TwoStream) -> dict[str, Float[Tensor, "items dim"]]:
    """The embeddings of each stream."""
    with torch.no_grad():
        tables = [table.detach().cpu() for table in model.tables()]
    return dict(zip(("ids", *config.content.streams), tables, strict=True))


def agreement(config: Config, model: TwoStream) -> Agreement:
    """Each stream's distance from the ids, and how evenly it spreads (figure 3)."""
    tables = stream_tables(config, model)
    return {
        name: {
            "alignment": alignment_distance(tables["ids"], vectors),
            "uniformity": uniformity(vectors),
        }
        for name, vectors in tables.items()
    }


def write_page(
    run: Run,
    data: Data,
    config: Config,
    reports: Mapping[str, Report],
    streams: Agreement,
    model: TwoStream,
) -> None:
    """Writes report.html from what the stages left."""
    terms = ["next_item"]
    terms += ["user_contrast"] if config.model.user_weight else []
    terms += ["item_contrast"] if config.model.item_weight else []
    trainings: dict[str, tuple[str, list[str]]] = {"tssr": (MODEL, terms)}
    if config.evaluation.baselines:
        trainings |= {f"sasrec_{name}": (title, ["next_item"]) for name, title in BASELINES.items()}
    recommender = DenseRecommender(
        model, data.catalog.item_ids, history_length=config.model.history_length
    )
    sections = [
        page.results_section(data, reports, MODEL),
        page.training_section(run, trainings),
        Section(
            title="Streams",
            body=[
                table(
                    ["stream", "distance to ids", "uniformity"],
                    [[name, *values.values()] for name, values in streams.items()],
                ),
                scatter_panels(
                    [
                        tsne_panel(name, vectors.numpy(), seed=config.seed)
                        for name, vectors in stream_tables(config, model).items()
                    ]
                ),
            ],
            note="Item embeddings of each stream: mean squared distance of unit vectors to the "
            "ids' (0 is perfect, 2 is unrelated), and uniformity (lower spreads more evenly), "
            "after Wang and Isola; t-SNE, coloured by 10 k-means clusters.",
        ),
        *study_sections(run),
        page.examples_section(data, recommender.recommend, config.seed),
    ]
    write_report(
        run.path / "report.html",
        title=MODEL,
        lead=f"Collaborative signals and semantic relatedness in two streams, {run.path.name}",
        summary={
            "Data": data.counts,
            "Choices": {
                "content": config.content.embedding,
                "streams": ", ".join(config.content.streams),
                "scores": {"ids": "id embeddings", "sum": "ids and content"}[config.model.head],
                "seed": config.seed,
            },
            "Time": page.times(run, stages(config)),
        },
        sections=sections,
    )
