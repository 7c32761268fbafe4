"""What a PRORec run shows: metrics.json, modality shares, report.html."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from evalrec import Report
from experiment import Run
from figures import Panel, curves, histogram, read_series, scatter_panels, tsne_panel
from fusion import ModalityShare, modality_share
from genrec import Recommender
from jaxtyping import Float
from prorec_model import Config
from report import (
    Example,
    Section,
    duration,
    examples_table,
    results_table,
    share_bars,
    table,
    tag,
    write_report,
)
from semtok import load_tokenizer, measure_health
from stages import Data, sample_queries
from torch import Tensor

MODEL = "PRORec"
"""The model's row in tables."""

STAGES = ("text", "floors", "reference", "stage_one", "tokenizer", "stage_two", "test")

Spaces = Mapping[str, tuple[Tensor, ModalityShare]]
"""Item embeddings by name, and how much of each modality they keep."""


def metrics(run: Run, data: Data, reports: Mapping[str, Report], spaces: Spaces) -> dict[str, Any]:
    """What metrics.json holds: nothing that depends on when or how often the run was started."""
    facts = {name: run.facts(name) for name in STAGES if (run.path / name).exists()}
    return {
        "data": data.counts,
        "stages": {
            name: {key: value for key, value in stage.items() if key != "seconds"}
            for name, stage in facts.items()
        },
        "modality_share": {name: dataclasses.asdict(share) for name, (_, share) in spaces.items()},
        "test": {name: report.to_json(per_user=False) for name, report in reports.items()},
    }


def modality_spaces(
    semantic: Float[Tensor, "items semantic_dim"],
    collaborative: Float[Tensor, "items dim"],
    integrated: Float[Tensor, "items integrated_dim"],
    seed: int,
) -> Spaces:
    """The integrated and the concatenated embeddings with their modality shares (eq. 9-10).

    Args:
        semantic: E_S after PCA.
        collaborative: Of a model trained on ids alone, as in the paper's table 4.
        integrated: Of stage I.
        seed: Of the items sampled.
    """
    finals = {
        "integrated": integrated,
        "concatenated": torch.cat([semantic, collaborative], dim=1),
    }
    return {
        name: (final, modality_share(semantic, collaborative, final, seed=seed))
        for name, final in finals.items()
    }


def write_page(
    run: Run, data: Data, config: Config, reports: Mapping[str, Report], spaces: Spaces
) -> None:
    """Writes report.html from what the stages left."""
    tokenizer = load_tokenizer(run.path / "tokenizer/tokenizer")
    ids = tokenizer.semantic_ids
    health = measure_health(ids, collisions=tokenizer.collisions, distortion=tokenizer.distortion)
    results = {
        name: {
            mode: {
                metric: estimate.mean
                for metric, estimate in estimates.items()
                if not metric.startswith("mrr") and not metric.endswith("@5")
            }
            for mode, estimates in report.metrics.items()
        }
        for name, report in reports.items()
    }
    levels = [
        [level, size.codebook_size, size.used, f"{size.utilisation:.1%}", size.perplexity]
        for level, size in enumerate(health.levels, start=1)
    ]
    first = np.bincount(np.bincount(ids.codes[:, 0], minlength=ids.codebook_sizes[0]))
    sections = [
        Section(
            title="Results",
            body=[results_table(results, model=MODEL)],
            note=f"Test, all {data.counts['users']:,} users, ranking over all items, hits on "
            "items. Filtered: items of the user's history are struck out first. Rows below the "
            "models are floors, which need no training.",
        ),
        Section(title="Training", body=[curves(_curves(run))]),
        Section(
            title="Semantic IDs",
            body=[
                table(["level", "codebook", "used", "utilisation", "perplexity"], levels),
                tag(
                    "div",
                    histogram(
                        {size: int(count) for size, count in enumerate(first) if count},
                        title="first codes by how many items share them",
                        x_label="items",
                    ),
                    css="grid wide",
                ),
            ],
            note=f"Collisions: {health.collision_rate:.2%} of items. Items by depth of their "
            "code: " + ", ".join(f"{n:,} at {d}" for d, n in enumerate(health.depths, 1)) + ".",
        ),
    ]
    if spaces:
        sections.append(
            Section(
                title="Modalities",
                body=[
                    share_bars(
                        {
                            name: {
                                "semantic": share.semantic,
                                "collaborative": share.collaborative,
                            }
                            for name, (_, share) in spaces.items()
                        }
                    ),
                    scatter_panels(
                        [
                            tsne_panel(name, final.numpy(), seed=config.seed)
                            for name, (final, _) in spaces.items()
                        ]
                    ),
                ],
                note="Share of each modality by KL (PRORec, eq. 9-10) and t-SNE, coloured by "
                "10 k-means clusters (figure 5). The collaborative modality is that of the "
                "backbone trained on ids alone.",
            )
        )
    sections.append(
        Section(title="Examples", body=[examples_table(_examples(run, data, config.seed))])
    )
    seconds = {name: run.facts(name)["seconds"] for name in STAGES if (run.path / name).exists()}
    write_report(
        run.path / "report.html",
        title="PRORec",
        lead="Progressive collaborative and semantic knowledge fusion for generative "
        f"recommendation, {run.path.name}",
        summary={
            "Data": data.counts,
            "Choices": {
                "text": config.text.embedding,
                "backbone": config.stage_one.backbone,
                "integrated embedding": config.stage_one.integrated,
                "history": config.stage_two.history_input,
                "output": config.stage_two.output_vocabulary,
                "seed": config.seed,
            },
            "Time": {name: duration(value) for name, value in seconds.items()}
            | {"all": duration(sum(seconds.values()))},
        },
        sections=sections,
    )


def _curves(run: Run) -> list[Panel]:
    panels = []
    for stage, title, terms in (
        ("stage_one", "stage I", ("next_item", "alignment")),
        ("stage_two", "stage II", ("generation", "distillation")),
    ):
        log = run.path / stage / "log.jsonl"
        panels.append(
            Panel(title=f"{title}: loss", lines=read_series(log, {t: f"losses.{t}" for t in terms}))
        )
        ndcg = {"all items": "metrics.ndcg@10", "seen filtered": "metrics.ndcg@10 filtered"}
        panels.append(
            Panel(title=f"{title}: validation NDCG@10", lines=read_series(log, ndcg), mark="max")
        )
    return panels


def _examples(run: Run, data: Data, seed: int, count: int = 4) -> list[Example]:
    """A few users' histories, recommendations and targets."""
    titles, test = data.titles(), data.split.test
    chosen = sample_queries(test, count, seed)
    recommender = Recommender.load(run.path / "stage_two/model")
    names = data.catalog.item_ids
    row = {name: number for number, name in enumerate(names)}
    answers = recommender.recommend([[names[i] for i in h] for h in chosen.histories], top_k=10)
    return [
        Example(
            history=[titles[item] for item in history[-8:]],
            recommended=[titles[row[item.item_id]] for item in answer.items],
            target=titles[target],
        )
        for history, answer, target in zip(chosen.histories, answers, chosen.targets, strict=True)
    ]
