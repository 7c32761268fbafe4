"""CoCoRec: from a file of items and a file of interactions to recommended item ids.

The stages of "Bridging Textual-Collaborative Gap through Semantic Codes for Sequential
Recommendation": an embedding of each view; semantic codes; the floors; the semantic-fusion module
and the backbone, trained together with masked codes; the deployed model; SASRec as a baseline. Each
stage is a folder of the run.

    python apps/cocorec.py run --data DIR --out RUN
    python apps/cocorec.py update --run RUN --data NOW --out RUN2
    python apps/cocorec.py study NAME --data DIR --out RUN
    python apps/cocorec.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/cocorec.py export --run RUN --out FOLDER
    python apps/cocorec.py serve --run RUN
    python apps/cocorec.py demo --out RUN
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semrec.cocorec.config import Codes, Config, Evaluation, Model, Views
from semrec.shared.app import App, System, Updating
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
    """The stages, the findings of the report, and the studies."""
    from semrec.cocorec.report import findings
    from semrec.cocorec.studies import STUDIES
    from semrec.cocorec.system import CoCoRecPipeline
    from semrec.cocorec.update import UpdatePipeline, updated_config

    return System(
        pipeline=CoCoRecPipeline,
        findings=findings,
        studies=STUDIES,
        updating=Updating(config=updated_config, pipeline=UpdatePipeline),
    )


APP = App(
    title="CoCoRec",
    config=Config,
    embedding="views",
    demo=DEMO,
    system=system,
)


def main() -> None:
    """The command line."""
    run_app(APP)
