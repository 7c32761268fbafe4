"""Two codes an item, as EAGER has them: one of the text, one of the behaviour, a decoder for each.

The union of what both decoders find is scored by both (`genrec.Streams`). It is what PRORec's one
code is compared with, in accuracy (table 3) and in speed (figure 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalrec import Report, evaluate, read_report
from genrec import Batch, Streams, Trie, distillation_loss, query_batches
from jaxtyping import Float, Int
from torch import Tensor, nn

from semrec.prorec.config import StageTwo
from semrec.prorec.system import Pipeline
from semrec.shared.training import load_weights, save_weights

SOURCES = ("semantic", "collaborative")


def both(pipeline: Pipeline) -> Pipeline:
    """The variant whose history is read as both embeddings side by side, each of length 1."""
    return pipeline.varied(codes={"source": "concatenated_unit"})


def two_codes_stage(pipeline: Pipeline) -> str:
    """The stage of the two codes, complete or not."""
    tested = ("evaluation.ks", "evaluation.num_beams")
    variant = both(pipeline)
    return variant.stage("two_codes", *variant.stage_two_parts, *tested)


def two_codes(pipeline: Pipeline) -> Report:
    """A stage that trains a decoder for each of the two codes, and tests them together."""
    name = two_codes_stage(pipeline)
    variants = [_source(pipeline, source) for source in SOURCES]
    tries = [variant.trie for variant in variants]  # the codes are stages of their own, before

    def build(folder: Path) -> Mapping[str, Any]:
        torch.manual_seed(pipeline.config.seed)
        model = _untrained(pipeline, tries).to(pipeline.device)
        spaces = [variant.embeddings for variant in variants]
        width = max(space.shape[1] for space in spaces)
        padded = [nn.functional.pad(s, (0, width - s.shape[1])).to(pipeline.device) for s in spaces]
        rank = partial(ranked, model)
        loss = partial(two_codes_loss, pipeline.config.stage_two, padded)
        facts = pipeline.fit_generator(name, folder, model, loss, rank)
        evaluation, queries = pipeline.config.evaluation, pipeline.data.split.test
        report = evaluate(queries, rank(queries.histories, evaluation.num_beams), ks=evaluation.ks)
        report.write_json(folder / "report.json")
        save_weights(folder / "weights.safetensors", model)
        return facts

    pipeline.run.stage(name, build)
    return read_report(pipeline.run.path / name / "report.json")


def load_two_codes(pipeline: Pipeline) -> Streams:
    """The model that the stage left."""
    model = _untrained(pipeline, [_source(pipeline, source).trie for source in SOURCES])
    load_weights(pipeline.run.path / two_codes_stage(pipeline) / "weights.safetensors", model)
    return model.to(pipeline.device).eval()


def two_codes_loss(
    config: StageTwo,
    spaces: list[Float[Tensor, "items dim"]],
    model: nn.Module,
    batch: Batch,
) -> dict[str, Tensor]:
    """The sum over the streams of L_gen and beta L_distillation, each of its own embeddings."""
    outputs = model(batch.history, batch.targets)
    losses = {"generation": torch.stack([output.loss for output in outputs]).sum()}
    if config.beta:
        terms = [
            distillation_loss(
                output.distillation,
                space,
                batch.targets,
                num_negatives=min(config.distillation_negatives, len(space)),
                similarity=config.distillation_similarity,
                temperature=config.distillation_temperature,
            )
            for output, space in zip(outputs, spaces, strict=True)
        ]
        losses["distillation"] = config.beta * torch.stack(terms).sum()
    return losses


def ranked(model: Streams, histories: Any, num_beams: int) -> Int[np.ndarray, "users beams"]:
    """Each history's best items among those that either stream finds."""
    first = model.streams[0]
    num_items = first.trie.num_items
    num_beams, training = min(num_beams, num_items), model.training
    found = np.full((len(histories), num_beams), -1, dtype=np.int64)
    tables = model.eval().tables()
    for rows, history in query_batches(
        histories,
        num_items=num_items,
        history_length=first.config.history_length,
        batch_size=128,
        by_length=True,
    ):
        best = model.beam_search(
            history.to(first.trie.device), num_beams=num_beams, top_k=num_beams, tables=tables
        )
        found[rows.numpy()] = best.items.cpu().numpy()
    model.train(training)
    return found


def _source(pipeline: Pipeline, source: str) -> Pipeline:
    return pipeline.varied(codes={"source": source})


def _untrained(pipeline: Pipeline, tries: Sequence[Trie]) -> Streams:
    width = max(_source(pipeline, source).embeddings.shape[1] for source in SOURCES)
    return Streams(
        pipeline.config.stage_two.model(width), tries, item_vectors=both(pipeline).item_vectors()
    )
