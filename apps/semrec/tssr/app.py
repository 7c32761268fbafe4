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

from pathlib import Path

import torch
from evalrec import DataError
from genrec import ArtifactError, DenseRecommender
from semtok import CatalogError

from semrec.shared.command import App, add_recommend, command_line
from semrec.shared.data import read_items
from semrec.shared.run import guarded
from semrec.tssr.config import Config, Content, Evaluation, Model
from semrec.tssr.report import MODEL, content_stages
from semrec.tssr.studies import STUDIES
from semrec.tssr.system import Pipeline, load_model, run_stages

DEMO = Config(
    content=Content(embedding="lsa", dim=64),
    model=Model(dim=64, batch_size=64, epochs=8, warmup_steps=50),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""


def recommender_of(run: Path, config: Config, device: torch.device) -> DenseRecommender:
    """The recommender of a run's model."""
    items = read_items(run)
    return DenseRecommender(
        load_model(run, run / "tssr", config, content_stages(config), len(items)).to(device),
        [item["item_id"] for item in items],
        history_length=config.model.history_length,
        popularity=torch.tensor([item["count"] for item in items]),
    )


APP = App(
    title=MODEL,
    config=Config,
    embedding="content",
    demo=DEMO,
    pipeline=Pipeline,
    run_stages=run_stages,
    studies=STUDIES,
)
app = command_line(APP)
add_recommend(app, APP, recommender_of)


def main() -> None:
    """The command line; what a user can put right ends it with one line."""
    guarded(app, (ArtifactError, CatalogError, DataError))
