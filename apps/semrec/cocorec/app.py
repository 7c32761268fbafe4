"""CoCoRec end to end: a file of items and a file of interactions to recommended item ids.

Bridging Textual-Collaborative Gap through Semantic Codes for Sequential Recommendation, stage by
stage: an embedding a view; semantic codes; the floors; the semantic-fusion module and the backbone,
trained together with masked codes; what is deployed of them; SASRec beside them. Each stage is a
folder of the run.

    python apps/cocorec.py run --data DIR --out RUN
    python apps/cocorec.py study NAME --data DIR --out RUN
    python apps/cocorec.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/cocorec.py demo --out RUN
"""

from __future__ import annotations

from pathlib import Path

import torch
from evalrec import DataError
from genrec import ArtifactError, DenseRecommender
from semtok import CatalogError

from semrec.cocorec.config import Codes, Config, Evaluation, Model, Views
from semrec.cocorec.deployed import load_deployed
from semrec.cocorec.report import MODEL
from semrec.cocorec.studies import STUDIES
from semrec.cocorec.system import Pipeline, run_stages
from semrec.shared.command import App, add_recommend, command_line
from semrec.shared.data import read_items
from semrec.shared.run import guarded

DEMO = Config(
    views=Views(embedding="lsa", dim=64),
    codes=Codes(codes_per_view=2, codebook_size=32),
    model=Model(
        dim=64, feedforward_dim=128, num_negatives=256, epochs=8, warmup_steps=50, patience=3
    ),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""


def recommender_of(run: Path, config: Config, device: torch.device) -> DenseRecommender:
    """The recommender of a run: its items are fused already, so that it costs what SASRec costs."""
    items = read_items(run)
    return DenseRecommender(
        load_deployed(run / "cocorec/deployed.safetensors", config.model).to(device),
        [item["item_id"] for item in items],
        history_length=config.model.history_length,
        popularity=torch.tensor([item["count"] for item in items]),
    )


APP = App(
    title=MODEL,
    config=Config,
    embedding="views",
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
