"""PRORec end to end: a file of items and a file of interactions to recommended item ids.

Progressive Collaborative and Semantic Knowledge Fusion for Generative Recommendation, stage by
stage: text embeddings; stage I, a sequence model whose item embeddings are aligned with the text
(section 3.3); semantic IDs of the integrated embeddings; stage II, an encoder-decoder over them
with distillation (section 3.4); the floors; the test. Each stage is a folder of the run.

    python apps/prorec.py run --data DIR --out RUN
    python apps/prorec.py study NAME --data DIR --out RUN
    python apps/prorec.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/prorec.py demo --out RUN
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer
from evalrec import DataError
from genrec import ArtifactError
from semtok import CatalogError

from semrec.prorec.app_run import run_stages
from semrec.prorec.config import Codes, Config, Evaluation, StageOne, StageTwo, Text
from semrec.prorec.recommender import load_recommender
from semrec.prorec.report import MODEL
from semrec.prorec.studies.tables import STUDIES
from semrec.prorec.system import Pipeline
from semrec.shared.command import App, command_line
from semrec.shared.configuration import build_config
from semrec.shared.data import check_complete
from semrec.shared.recommend import (
    AllowOption,
    DenyOption,
    ForceOption,
    HistoryOption,
    InputOption,
    OutputOption,
    RunOption,
    SeenOption,
    TopKOption,
    answer,
    check_answer_options,
    read_ids,
)
from semrec.shared.run import choose_device, guarded, read_json
from semrec.shared.setting import DeviceOption

DEMO = Config(
    text=Text(embedding="lsa", dim=64),
    stage_one=StageOne(dim=64, batch_size=64, epochs=8, warmup_steps=50),
    codes=Codes(codebook_size=32),
    stage_two=StageTwo(dim=64, feedforward_dim=128, num_decoder_layers=2, epochs=8),
    evaluation=Evaluation(validation_users=1000),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""

APP = App(
    title=MODEL,
    config=Config,
    embedding="text",
    demo=DEMO,
    pipeline=Pipeline,
    run_stages=run_stages,
    studies=STUDIES,
)
app = command_line(APP)


@app.command()
def recommend(
    run: RunOption,
    history: HistoryOption = None,
    source: InputOption = None,
    output: OutputOption = None,
    top_k: TopKOption = 10,
    num_beams: Annotated[
        int, typer.Option(min=1, help="Beams; --top-k of them where that is more")
    ] = 100,
    exclude_seen: SeenOption = False,
    allow: AllowOption = None,
    deny: DenyOption = None,
    force: ForceOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Item ids, titles and scores for one history, or for a file of them, streamed."""
    check_answer_options(history, source, output)
    check_complete(run)
    config: Config = build_config(Config, read_json(run / "run.json")["config"], str(run))
    recommender = load_recommender(run, config, choose_device(device), num_beams)
    stream = partial(
        recommender.stream,
        top_k=top_k,
        exclude_seen=exclude_seen,
        unknown="error",
        allow=read_ids(allow, recommender.rows),
        deny=read_ids(deny, recommender.rows) or (),
    )
    answer(
        run, stream, recommender.rows, history=history, source=source, output=output, force=force
    )


def main() -> None:
    """The command line; what a user can put right ends it with one line."""
    guarded(app, (ArtifactError, CatalogError, DataError))
