"""What a PRORec run shows: metrics.json, modality shares, report.html."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from evalrec import Report
from fusion import ModalityShare, modality_share
from jaxtyping import Float
from semtok import load_tokenizer, measure_health
from torch import Tensor

from semrec.prorec.config import Config
from semrec.prorec.recommender import load_recommender
from semrec.shared.data import Data
from semrec.shared.report import sections
from semrec.shared.report.figures import histogram, scatter_panels, tsne_panel
from semrec.shared.report.page import Section, share_bars, table, tag, write_report
from semrec.shared.run import Run
from semrec.shared.studies import study_sections

MODEL = "PRORec"
"""The model's row in tables."""

BACKBONES = {"sasrec": "SASRec", "din": "DIN"}
"""What the sequence models of stage I are called."""

Spaces = Mapping[str, tuple[Tensor, ModalityShare]]
"""Item embeddings by name, and how much of each modality they keep."""


def stages(config: Config) -> tuple[str, ...]:
    """All stages of a run; "text" is not among its own where the text is several views."""
    joins = config.joining.any
    asked = {
        "text": True,
        "floors": True,
        "reference": config.has_reference,
        "stage_one": joins or config.codes.source == "integrated",
        "tokenizer": True,
        "stage_two": True,
        "test": True,
        "candidates_validation": joins,
        "candidates_test": joins,
        "joined": joins,
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


def metrics(
    run: Run, data: Data, config: Config, reports: Mapping[str, Report], spaces: Spaces
) -> dict[str, Any]:
    """What metrics.json holds."""
    shares = {name: dataclasses.asdict(share) for name, (_, share) in spaces.items()}
    return sections.metrics(run, data, stages(config), reports) | {"modality_share": shares}


def modality_spaces(
    semantic: Float[Tensor, "items semantic_dim"],
    collaborative: Float[Tensor, "items dim"],
    final: Float[Tensor, "items final_dim"],
    source: str,
    seed: int,
) -> Spaces:
    """What became codes and the concatenated embeddings, with their modality shares (eq. 9-10).

    Args:
        semantic: E_S after PCA.
        collaborative: Of a model trained on ids alone, as in the paper's table 4.
        final: What became codes.
        source: What that is called.
        seed: Of the items sampled.
    """
    finals = {source: final}
    finals.setdefault("concatenated", torch.cat([semantic, collaborative], dim=1))
    return {
        name: (space, modality_share(semantic, collaborative, space, seed=seed))
        for name, space in finals.items()
    }


def write_page(
    run: Run, data: Data, config: Config, reports: Mapping[str, Report], spaces: Spaces
) -> None:
    """Writes report.html from what the stages left."""
    tokenizer = load_tokenizer(run.path / "tokenizer/tokenizer")
    ids = tokenizer.semantic_ids
    health = measure_health(ids, collisions=tokenizer.collisions, distortion=tokenizer.distortion)
    levels = [
        [level, size.codebook_size, size.used, f"{size.utilisation:.1%}", size.perplexity]
        for level, size in enumerate(health.levels, start=1)
    ]
    first = np.bincount(np.bincount(ids.codes[:, 0], minlength=ids.codebook_sizes[0]))
    cards = [
        sections.results_section(data, reports, MODEL),
        sections.training_section(
            run,
            {
                stage: terms
                for stage, terms in {
                    "stage_one": ("stage I", ("next_item", "alignment")),
                    "stage_two": ("stage II", ("generation", "distillation")),
                }.items()
                if stage in stages(config)
            },
        ),
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
        cards.append(
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
    cards += study_sections(run)
    recommender = load_recommender(run.path, config, torch.device("cpu"))
    cards.append(sections.examples_section(data, recommender.recommend, config.seed))
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
                "codes of": config.codes.source,
                "integrated embedding": config.stage_one.integrated,
                "quantizer": config.codes.quantizer,
                "history": config.stage_two.history_input,
                "output": config.stage_two.output_vocabulary,
                "seed": config.seed,
            },
            "Time": sections.times(run, stages(config)),
        },
        sections=cards,
    )
