"""What a TSSR run shows: metrics.json, how the streams agree, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from evalrec import Report
from fusion import alignment_distance, uniformity
from genrec import DenseRecommender
from jaxtyping import Float
from torch import Tensor

from semrec.shared.data import Data
from semrec.shared.item_tables import Items
from semrec.shared.report import sections
from semrec.shared.report.figures import scatter_panels, tsne_panel
from semrec.shared.report.page import Section, table, write_report
from semrec.shared.run import Run
from semrec.shared.studies import study_sections
from semrec.tssr.config import Config
from semrec.tssr.model import TwoStream

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
    return sections.metrics(run, data, stages(config), reports) | {"streams": streams}


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
    cards = [
        sections.results_section(data, reports, MODEL),
        sections.training_section(run, trainings),
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
        sections.examples_section(data, recommender.recommend, config.seed),
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
            "Time": sections.times(run, stages(config)),
        },
        sections=cards,
    )
