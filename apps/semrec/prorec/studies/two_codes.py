"""Two codes per item, as in EAGER: one of the text, one of the behaviour, each with a decoder.

Both decoders score the items that either finds (`genrec.Streams`). PRORec's one code is compared
with it in accuracy (table 3) and in speed (figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from evalrec import Report, evaluate, read_report
from genrec import (
    Batch,
    Streams,
    Trie,
    load_weights,
    rank_histories,
)
from jaxtyping import Float
from torch import Tensor, nn

from semrec.prorec.config import StageTwo
from semrec.prorec.joined import PRORecPipeline
from semrec.prorec.model import distillation
from semrec.prorec.system import GENERATOR_READS
from semrec.shared.stage import Facts, Stage
from semrec.shared.training import keep_weights

SOURCES = ("semantic", "collaborative")


def two_codes(pipeline: PRORecPipeline) -> Stage[Report]:
    """The stage "two_codes": trains a decoder for each of the two codes and tests them together."""
    pipeline = _reading_itself(pipeline)
    variants = [_source(pipeline, source) for source in SOURCES]
    history = _both(pipeline)

    def fill(folder: Path) -> Facts:
        torch.manual_seed(pipeline.config.seed)
        model = _untrained(pipeline, [variant.trie for variant in variants]).to(pipeline.device)
        spaces = [variant.embeddings for variant in variants]
        width = max(space.shape[1] for space in spaces)
        padded = [nn.functional.pad(s, (0, width - s.shape[1])).to(pipeline.device) for s in spaces]
        loss = partial(two_codes_loss, pipeline.config.stage_two, padded)
        facts = pipeline.fit_generator(stage.folder_name, folder, model, loss)
        evaluation, queries = pipeline.config.evaluation, pipeline.data.split.test
        model.eval()
        ranked = rank_histories(model, queries.histories, num_beams=evaluation.num_beams)
        evaluate(queries, ranked.items, ks=evaluation.ks).write_json(folder / "report.json")
        keep_weights(model, folder)
        return facts

    stage: Stage[Report] = history.stage(
        "two_codes",
        reads=(
            *GENERATOR_READS,
            "evaluation.ks",
            "evaluation.num_beams",
        ),
        after=(history.tokenizer, *(variant.tokenizer for variant in variants)),
        fill=fill,
        load=lambda folder: read_report(folder / "report.json"),
    )
    return stage


def load_two_codes(pipeline: PRORecPipeline) -> Streams:
    """The model of the stage."""
    pipeline = _reading_itself(pipeline)
    model = _untrained(pipeline, [_source(pipeline, source).trie for source in SOURCES])
    load_weights(two_codes(pipeline).file("weights.safetensors"), model)
    return model.to(pipeline.device).eval()


def two_codes_loss(
    config: StageTwo,
    spaces: list[Float[Tensor, "items dim"]],
    model: nn.Module,
    batch: Batch,
) -> dict[str, Tensor]:
    """The sum of L_gen and beta L_distillation over the streams, each with its own embeddings."""
    outputs = model(batch.history, batch.targets)
    losses = {"generation": torch.stack([output.loss for output in outputs]).sum()}
    if config.beta:
        terms = [
            distillation(config, output.distillation, space, batch.targets)
            for output, space in zip(outputs, spaces, strict=True)
        ]
        losses["distillation"] = config.beta * torch.stack(terms).sum()
    return losses


def _reading_itself(pipeline: PRORecPipeline) -> PRORecPipeline:
    """The variant whose decoders share their own encoder and use no floors."""
    changes = {"history_input": "vectors", "tree_scores": (), "teacher": "none"}
    return pipeline.varied(stage_two=changes)


def _source(pipeline: PRORecPipeline, source: str) -> PRORecPipeline:
    return pipeline.varied(codes={"source": source})


def _both(pipeline: PRORecPipeline) -> PRORecPipeline:
    """The variant that reads the history as both embeddings concatenated, each of length 1."""
    return pipeline.varied(codes={"source": "concatenated_unit"})


def _untrained(pipeline: PRORecPipeline, tries: Sequence[Trie]) -> Streams:
    width = max(_source(pipeline, source).embeddings.shape[1] for source in SOURCES)
    vectors = _both(pipeline).item_vectors()
    return Streams(pipeline.config.stage_two.model(width), tries, item_vectors=vectors)
