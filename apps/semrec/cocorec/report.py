"""What a CoCoRec run shows: metrics.json, its codes, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalrec import Report
from genrec import DenseRecommender
from semtok import CodeHealth

from semrec.cocorec.config import Config, Views
from semrec.cocorec.deployed import Deployed
from semrec.shared.data import Data
from semrec.shared.item_tables import Items
from semrec.shared.report import sections
from semrec.shared.report.figures import scatter_panels, tsne_panel
from semrec.shared.report.page import Section, table, write_report
from semrec.shared.run import Run
from semrec.shared.studies import study_sections

MODEL = "CoCoRec"
"""The model's row in tables."""

BASELINES: dict[Items, str] = {"ids": "SASRec, ids", "content": "SASRec, text"}
"""Rows of the baselines, by what they read."""


def view_stages(views: Views) -> tuple[str, ...]:
    """The stages of the views' embeddings, named after their fields."""
    return tuple("_".join(["view", *fields]) for fields in views.fields)


def stages(config: Config) -> tuple[str, ...]:
    """All stages of a run."""
    baselines = (f"sasrec_{items}" for items in BASELINES if config.evaluation.baselines)
    return (*view_stages(config.views), "tokenizer", "floors", "cocorec", *baselines)


def metrics(
    run: Run, data: Data, config: Config, reports: Mapping[str, Report], health: CodeHealth
) -> dict[str, Any]:
    """What metrics.json holds."""
    return sections.metrics(run, data, stages(config), reports) | {
        "codes": {
            "codebook_sizes": [level.codebook_size for level in health.levels],
            "collision_rate": health.collision_rate,
            "perplexity": [level.perplexity for level in health.levels],
        }
    }


def write_page(
    run: Run,
    data: Data,
    config: Config,
    reports: Mapping[str, Report],
    health: CodeHealth,
    model: Deployed,
) -> None:
    """Writes report.html from what the stages left."""
    terms = ["next_item"]
    terms += ["masked_codes"] if config.model.alpha else []
    terms += ["alignment"] if config.model.beta else []
    trainings: dict[str, tuple[str, list[str]]] = {"cocorec": (MODEL, terms)}
    if config.evaluation.baselines:
        trainings |= {f"sasrec_{name}": (title, ["next_item"]) for name, title in BASELINES.items()}
    recommender = DenseRecommender(
        model, data.catalog.item_ids, history_length=config.model.history_length
    )
    names = [f"{view} {k}" for view in config.views.views for k in range(1, _per_view(config) + 1)]
    if config.codes.source != "text":
        names = [f"{config.codes.source} {k}" for k in range(1, len(health.levels) + 1)]
    levels = [
        [name, level.codebook_size, level.used, f"{level.utilisation:.1%}", level.perplexity]
        for name, level in zip(names, health.levels, strict=True)
    ]
    fused = model.item_vectors().detach().cpu().numpy()
    cards = [
        sections.results_section(data, reports, MODEL),
        sections.training_section(run, trainings),
        Section(
            title="Semantic codes",
            body=[table(["code", "codebook", "used", "utilisation", "perplexity"], levels)],
            note=f"{health.collision_rate:.2%} of the items share all their codes with another; "
            "their views, which the codes ask, tell them apart.",
        ),
        Section(
            title="Items",
            body=[scatter_panels([tsne_panel("fused item vectors", fused, seed=config.seed)])],
            note="What the backbone reads and ranks: t-SNE, coloured by 10 k-means clusters.",
        ),
        *study_sections(run),
        sections.examples_section(data, recommender.recommend, config.seed),
    ]
    write_report(
        run.path / "report.html",
        title=MODEL,
        lead="Text and collaborative signals, bridged by semantic codes, " + run.path.name,
        summary={
            "Data": data.counts,
            "Choices": {
                "embedding": config.views.embedding,
                "views": ", ".join(config.views.views),
                "codes": f"{config.codes.quantizer}, {_per_view(config)} a view",
                "source of the codes": config.codes.source,
                "seed": config.seed,
            },
            "Time": sections.times(run, stages(config)),
        },
        sections=cards,
    )


def _per_view(config: Config) -> int:
    return config.codes.codes_per_view
