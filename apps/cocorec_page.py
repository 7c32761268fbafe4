"""What a CoCoRec run shows: metrics.json, its codes, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import page
from cocorec_config import Config, Views
from cocorec_deployed import Deployed
from evalrec import Report
from experiment import Run
from figures import scatter_panels, tsne_panel
from genrec import DenseRecommender
from item_tables import Items
from report import Section, table, write_report
from semtok import CodeHealth
from stages import Data
from studies import study_sections

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
    return page.metrics(run, data, stages(config), reports) | {
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
    sections = [
        page.results_section(data, reports, MODEL),
        page.training_section(run, trainings),
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
        page.examples_section(data, recommender.recommend, config.seed),
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
            "Time": page.times(run, stages(config)),
        },
        sections=sections,
    )


def _per_view(config: Config) -> int:
    return config.codes.codes_per_view
