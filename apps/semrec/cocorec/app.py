"""CoCoRec end to end: a file of items and a file of interactions to recommended item ids.

Bridging Textual-Collaborative Gap through Semantic Codes for Sequential Recommendation, stage by
stage: an embedding a view; semantic codes; the floors; the semantic-fusion module and the backbone,
trained together with masked codes; what is deployed of them; SASRec beside them. Each stage is a
folder of the run.

    python apps/cocorec.py run --data DIR --out RUN
    python apps/cocorec.py study NAME --data DIR --out RUN
    python apps/cocorec.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/cocorec.py serve --run RUN
    python apps/cocorec.py demo --out RUN
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semrec.cocorec.config import Codes, Config, Evaluation, Model, Views
from semrec.shared.app import App, System
from semrec.shared.command import run_app

if TYPE_CHECKING:
    from semrec.cocorec.system import CoCoRecPipeline

DEMO = Config(
    views=Views(embedding="lsa", dim=64),
    codes=Codes(codes_per_view=2, codebook_size=32),
    model=Model(
        dim=64, feedforward_dim=128, num_negatives=256, epochs=8, warmup_steps=50, patience=3
    ),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""


def system() -> System[CoCoRecPipeline]:
    """The stages, what is reported of them, and the studies."""
    from semrec.cocorec.report import findings
    from semrec.cocorec.studies import STUDIES
    from semrec.cocorec.system import CoCoRecPipeline

    return System(pipeline=CoCoRecPipeline, findings=findings, studies=STUDIES)


APP = App(
    title="CoCoRec",
    config=Config,
    embedding="views",
    demo=DEMO,
    system=system,
    no_update="a run of CoCoRec keeps nothing that brings new texts to the scale of the old ones, "
    "so begin a new run with the command run, which takes the same data",
)


def main() -> None:
    """The command line."""
    run_app(APP)
