"""PRORec: from a file of items and a file of interactions to recommended item ids.

The stages of "Progressive Collaborative and Semantic Knowledge Fusion for Generative
Recommendation": text embeddings; stage I, a sequence model whose item embeddings are aligned with
the text (section 3.3); semantic IDs of the integrated embeddings; stage II, an encoder-decoder with
distillation that generates them (section 3.4); the floors; the test. Each stage is a folder of the
run.

    python apps/prorec.py run --data DIR --out RUN
    python apps/prorec.py update --run RUN --data NOW --out RUN2
    python apps/prorec.py study NAME --data DIR --out RUN
    python apps/prorec.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/prorec.py export --run RUN --out FOLDER
    python apps/prorec.py serve --run RUN
    python apps/prorec.py demo --out RUN
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semrec.prorec.config import Codes, Config, Evaluation, StageOne, StageTwo, Text
from semrec.shared.app import App, System, Updating
from semrec.shared.command import run_app

if TYPE_CHECKING:
    from semrec.prorec.joined import PRORecPipeline

DEMO = Config(
    text=Text(embedding="lsa", dim=64),
    stage_one=StageOne(dim=64, batch_size=64, epochs=8, warmup_steps=50),
    codes=Codes(codebook_size=32),
    stage_two=StageTwo(dim=64, feedforward_dim=128, num_decoder_layers=2, epochs=8),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""


def system() -> System[PRORecPipeline]:
    """The stages, the findings of the report, and the studies."""
    from semrec.prorec.joined import PRORecPipeline
    from semrec.prorec.report import findings
    from semrec.prorec.studies.tables import STUDIES
    from semrec.prorec.update import UpdatePipeline, updated_config

    return System(
        pipeline=PRORecPipeline,
        findings=findings,
        studies=STUDIES,
        updating=Updating(config=updated_config, pipeline=UpdatePipeline),
    )


APP = App(
    title="PRORec",
    config=Config,
    embedding="text",
    demo=DEMO,
    system=system,
)


def main() -> None:
    """The command line."""
    run_app(APP)
