"""Further scores joined to those of generation, without training. Beyond the paper.

The items of the beam, and optionally the best items of dense rankings, are ranked by

    log p(item | history) + sum of weight * feature

with weights chosen on validation. A feature that does not help there gets the weight 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from evalrec import Candidates
from genrec import (
    Ranked,
    Seq2Seq,
    Tables,
    first_of_each,
    query_batches,
    score_items,
)
from jaxtyping import Bool, Float, Int
from torch import Tensor

GRIDS: dict[str, tuple[float, ...]] = {
    "c_dis": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "stage_one": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    "transition": (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0),
    "graph_text": (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0),
    "popularity": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0),
    "seen": (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
}
"""The weights of each feature that are tried."""

Scorer = Callable[[Any], Float[Tensor, "batch items"]]
"""A function from histories to a feature of all items."""


@torch.inference_mode()
def candidates_of(
    model: Seq2Seq,
    histories: Any,
    beams: Ranked,
    scorers: Mapping[str, Scorer],
    *,
    dense: Mapping[str, int],
    permitted: Bool[Tensor, "users items"] | None = None,
    tables: Tables | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Candidates:
    """The items of the beam and of dense rankings, with log-probabilities and features.

    Args:
        model: The generator, in eval mode.
        histories: Item rows, oldest first.
        beams: The ranking by generation, from `genrec.rank_histories`.
        scorers: Features of all items, by name.
        dense: Features whose best items also become candidates, and how many of each.
        permitted: A mask of the items that may become candidates; None for all.
        tables: `model.tables()`, if already computed.
        progress: Called with the number of finished histories and of all.
    """
    num_items, device, done = model.trie.num_items, model.trie.device, 0
    num_users, num_beams = beams.items.shape
    width = num_beams + sum(min(count, num_items) for count in dense.values())
    items = torch.full((num_users, width), -1)  # [users, candidates]
    log_probs = torch.full((num_users, width), -torch.inf)
    features = {name: torch.zeros(num_users, width) for name in scorers}
    tables = model.tables() if tables is None else tables
    batches = query_batches(
        histories,
        num_items=num_items,
        history_length=model.config.history_length,
        batch_size=128,
        by_length=True,
    )
    for rows, history in batches:
        batch = [histories[row] for row in rows.tolist()]
        scores = {name: scorer(batch).float().cpu() for name, scorer in scorers.items()}
        candidates, candidate_log_probs = beams.items[rows], beams.scores[rows]  # [batch, beams]
        if dense:
            allowed = None if permitted is None else permitted[rows]
            best = [
                Ranked.best(scores[name], k, permitted=allowed).items for name, k in dense.items()
            ]
            # If several rankings have an item, its first occurrence stays.
            candidates = first_of_each(torch.cat([candidates, *best], dim=1), -1)
            further = candidates[:, num_beams:]  # [batch, further]
            scored = further.masked_fill(further < 0, num_items).to(device)
            rescored = score_items(model, model.trie, history.to(device), scored, tables=tables)
            candidate_log_probs = torch.cat([candidate_log_probs, rescored.cpu()], dim=1)
        items[rows], log_probs[rows] = candidates, candidate_log_probs
        missing = candidates < 0
        for name, score in scores.items():
            gathered = score.gather(1, candidates.clamp(min=0))
            features[name][rows] = gathered.masked_fill(missing, 0.0)
        done += len(rows)
        if progress is not None:
            progress(done, num_users)
    return Candidates(items=items, base=log_probs, features=features)


def scaled(score: Scorer) -> Scorer:
    """A floor's scores as a feature: the scores of each history, divided by their maximum."""

    def shares(histories: Any) -> Float[Tensor, "batch items"]:
        scores = score(histories).float()
        return scores / scores.amax(dim=1, keepdim=True).clamp(min=1e-12)

    return shares


def seen_items(num_items: int, history_length: int) -> Scorer:
    """Minus 1 for the newest `history_length` items of a history, 0 for all others."""

    def seen(histories: Any) -> Float[Tensor, "batch items"]:
        marks = np.zeros((len(histories), num_items), dtype=np.float32)
        for row, history in enumerate(histories):
            marks[row, history[-history_length:]] = -1.0
        return torch.from_numpy(marks)

    return seen


def popularity_correction(counts: Int[np.ndarray, " items"]) -> Scorer:
    """Minus the logarithm of an item's count: logit adjustment (Menon et al., 2021)."""
    adjusted = -torch.from_numpy(np.log1p(counts)).float()
    return lambda histories: adjusted.expand(len(histories), -1)


def on_base(candidates: Candidates, base: str) -> Candidates:
    """The candidates with a feature instead of log p; unchanged for the base "generation"."""
    return candidates if base == "generation" else candidates.on(base)
