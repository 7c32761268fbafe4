"""A language model that recommends: from a file of items and of interactions to item ids.

It is not the system of one paper, but a common use of semantic IDs. Its stages: text embeddings;
semantic codes, each a token; the floors; a causal language model, fine-tuned on histories; its test
by decoding that is restricted to the catalogue. Each stage is a folder of the run.

    python apps/llm.py run --data DIR --out RUN --config llm.toml
    python apps/llm.py recommend --run RUN --history ID,ID,... --top-k 10
    python apps/llm.py serve --run RUN
    python apps/llm.py demo --out RUN
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from semrec.llm.config import Codes, Config, Evaluation, Model, Text
from semrec.shared.app import App, System
from semrec.shared.command import run_app

if TYPE_CHECKING:
    from semrec.llm.system import LlmPipeline

DEMO = Config(
    text=Text(embedding="lsa", dim=64),
    codes=Codes(num_levels=2, codebook_size=32),
    model=Model(
        model="tiny-llama", learning_rate=3e-3, epochs=4, batch_size=64, warmup_steps=50, patience=2
    ),
    evaluation=Evaluation(validation_users=300, num_beams=20),
)
"""Sizes that suit the synthetic catalogue of the demo: 600 items, 2,000 users."""


def system() -> System[LlmPipeline]:
    """The stages and the findings of the report."""
    from semrec.llm.report import findings
    from semrec.llm.system import LlmPipeline

    return System(pipeline=LlmPipeline, findings=findings)


APP = App(
    title="LLM",
    config=Config,
    embedding="text",
    demo=DEMO,
    system=system,
    command="semrec-llm",
    without=frozenset({"update", "extend", "study", "export"}),
)


def main() -> None:
    """The command line."""
    run_app(APP)
