"""TSSR: from a file of items and a file of interactions to recommended item ids.

The stages of "Empowering Sequential Recommendation from Collaborative Signals and Semantic
Relatedness": content embeddings; the floors; SASRec on ids, on content and on both, with the same
budget (table 1); the two-stream model, aligned by user-grained and item-grained contrast and joined
by cross-attention and a gate. Each stage is a folder of the run.

    python apps/tssr.py run --data DIR --out RUN
    python apps/tssr.py update --run RUN --data NOW --out RUN2
    python apps/tssr.py study NAME --data DIR --out RUN
    python apps/tssr.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/tssr.py export --run RUN --out FOLDER
    python apps/tssr.py serve --run RUN
    python apps/tssr.py demo --out RUN
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semrec.shared.app import App, System, Updating
from semrec.shared.command import run_app
from semrec.tssr.config import Config, Content, Evaluation, Model

if TYPE_CHECKING:
    from semrec.tssr.system import TSSRPipeline

DEMO = Config(
    content=Content(embedding="lsa", dim=64),
    model=Model(dim=64, batch_size=64, epochs=8, warmup_steps=50),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""


def system() -> System[TSSRPipeline]:
    """The stages, the findings of the report, and the studies."""
    from semrec.tssr.report import findings
    from semrec.tssr.studies import STUDIES
    from semrec.tssr.system import TSSRPipeline
    from semrec.tssr.update import UpdatePipeline, updated_config

    return System(
        pipeline=TSSRPipeline,
        findings=findings,
        studies=STUDIES,
        updating=Updating(config=updated_config, pipeline=UpdatePipeline),
    )


APP = App(
    title="TSSR",
    config=Config,
    embedding="content",
    demo=DEMO,
    system=system,
)


def main() -> None:
    """The command line."""
    run_app(APP)
