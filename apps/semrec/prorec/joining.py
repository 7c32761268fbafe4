"""Scores from elsewhere joined to those of generation. Beyond the paper; none of it needs training.

The beam's items, and those of dense rankings where they are asked for, are ranked by

    log p(item | history) + sum of weight * feature

with weights picked on validation, 0 among them: what does not help there is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from evalrec import Queries
from genrec import (
    Ranked,
    Seq2Seq,
    Tables,
    beam_search,
    exact_scores,
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
"""The weights that are tried of each feature."""

Scorer = Callable[[Any], Float[Tensor, "batch items"]]
"""Histories to a feature of all items."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Items to be ranked for each user, with what is known of them.

    Attributes:
        items: Item rows, no two alike; -1 where there are fewer.
        log_probs: log p(item | history); minus infinity where there is no item.
        features: Further scores by name, 0 where there is no item.
    """

    items: Int[Tensor, "users candidates"]
    log_probs: Float[Tensor, "users candidates"]
    features: Mapping[str, Float[Tensor, "users candidates"]]

    def on(self, base: str) -> Candidates:
        """With a feature in place of the log-probabilities, or, of "generation", as they are."""
        if base == "generation":
            return self
        missing = self.items < 0
        return replace(self, log_probs=self.features[base].masked_fill(missing, -torch.inf))

    def scores(self, weights: Mapping[str, float]) -> Float[Tensor, "users candidates"]:
        """The joined scores of the items.

        Args:
            weights: Feature to weight; those left out weigh nothing.
        """
        total = self.log_probs
        for name, weight in weights.items():
            if weight:
                total = total + weight * self.features[name]
        return total

    def ranked(self, weights: Mapping[str, float]) -> Int[np.ndarray, "users candidates"]:
        """The items by their joined scores, best first."""
        order = self.scores(weights).argsort(dim=1, descending=True, stable=True)
        ranked: Int[np.ndarray, "users candidates"] = self.items.gather(1, order).numpy()
        return ranked

    def ndcg(
        self, targets: Int[Tensor, " users"], weights: Mapping[str, float], k: int = 10
    ) -> float:
        """Mean NDCG@k over all items, as `evalrec.evaluate` has it of `ranked`, without sorting.

        Args:
            targets: The item that each user had next.
            weights: Feature to weight.
            k: Cut-off.
        """
        scores, hit = self.scores(weights), self.items == targets[:, None]
        found, place = hit.any(dim=1), hit.int().argmax(dim=1, keepdim=True)
        own = scores.gather(1, place)
        earlier = torch.arange(scores.shape[1]) < place  # ahead of it at equal scores
        rank = ((scores > own) | ((scores == own) & earlier)).sum(dim=1)
        gains = 1.0 / torch.log2(rank.double() + 2.0)
        return float((gains * (found & (rank < k))).mean())


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Weights, and NDCG@10 on validation, all items ranked, without them and with them."""

    weights: Mapping[str, float]
    without: float
    validation: float


def pick_weights(queries: Queries, candidates: Candidates, names: list[str]) -> Choice:
    """Weights by NDCG@10 over all items, one feature after the other from the grid of each.

    All are gone through again until none changes.

    Args:
        queries: The users of the candidates, with their targets.
        candidates: Of validation.
        names: The features that are joined.

    Returns:
        The weights; the smaller of equally good ones.
    """
    targets = torch.tensor(queries.targets)

    def value(weights: Mapping[str, float]) -> float:
        return candidates.ndcg(targets, weights)

    weights = dict.fromkeys(names, 0.0)
    without = best = value(weights)
    before = None
    while weights != before:
        before = dict(weights)
        for name in names:
            for weight in GRIDS[name]:
                found = value({**weights, name: weight})
                if found > best or (found == best and weight < weights[name]):
                    best, weights[name] = found, weight
    return Choice(weights=weights, without=without, validation=best)


def merged(
    items: Int[Tensor, "users candidates"], further: Int[Tensor, "users further"]
) -> Int[Tensor, "users further"]:
    """The further items of each user that are neither among `items` nor named before; else -1."""
    everything = torch.cat([items, further], dim=1)
    order = everything.argsort(dim=1, stable=True)
    ordered = everything.gather(1, order)
    again = torch.zeros_like(ordered, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = torch.zeros_like(again).scatter(1, order, again)
    return further.masked_fill(repeated[:, items.shape[1] :], -1)


@torch.inference_mode()
def generated(
    model: Seq2Seq,
    histories: Any,
    *,
    num_beams: int,
    exact: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Int[Tensor, "users beams"], Float[Tensor, "users beams"]]:
    """Each history's best items with their log-probabilities.

    Args:
        model: The generator, in eval mode.
        histories: Item rows, oldest first.
        num_beams: Beams of the search, and items a history.
        exact: Score the whole catalogue, so that no item is missed that the beam lost.
        progress: Called with the histories done, and all.
    """
    num_items, device = model.trie.num_items, model.trie.device
    num_beams, done, tables = min(num_beams, num_items), 0, model.tables()
    items = torch.full((len(histories), num_beams), -1)
    scores = torch.full((len(histories), num_beams), -torch.inf)
    for rows, history in _batches(model, histories):
        if exact:
            every = exact_scores(model, model.trie, history.to(device), tables=tables)
            found = Ranked.best(every, num_beams)
        else:
            found = beam_search(
                model,
                model.trie,
                history.to(device),
                num_beams=num_beams,
                top_k=num_beams,
                tables=tables,
            )
        items[rows], scores[rows] = found.items.cpu(), found.scores.cpu()
        done += len(rows)
        if progress is not None:
            progress(done, len(histories))
    return items, scores


@torch.inference_mode()
def candidates_of(
    model: Seq2Seq,
    histories: Any,
    beams: tuple[Int[Tensor, "users beams"], Float[Tensor, "users beams"]],
    scorers: Mapping[str, Scorer],
    *,
    dense: Mapping[str, int],
    permitted: Bool[Tensor, "users items"] | None = None,
    tables: Tables | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Candidates:
    """The beam's items and those of dense rankings, with their log-probabilities and features.

    Args:
        model: The generator, in eval mode.
        histories: Item rows, oldest first.
        beams: What `generated` gave.
        scorers: Features of all items, by name.
        dense: Features whose best items become candidates as well, and how many of each.
        permitted: What of those may become a candidate, one mark an item; None for all.
        tables: `model.tables()`, if at hand.
        progress: Called with the histories done, and all.
    """
    items, log_probs = beams
    num_items, device, done = model.trie.num_items, model.trie.device, 0
    width = items.shape[1] + sum(min(count, num_items) for count in dense.values())
    found = torch.full((len(items), width), -1)
    scores = torch.full((len(items), width), -torch.inf)
    features = {name: torch.zeros(len(items), width) for name in scorers}
    tables = model.tables() if tables is None else tables
    for rows, history in _batches(model, histories):
        batch = [histories[row] for row in rows.tolist()]
        values = {name: scorer(batch).float().cpu() for name, scorer in scorers.items()}
        open_ = None if permitted is None else permitted[rows]
        best = [Ranked.best(values[name], k, permitted=open_).items for name, k in dense.items()]
        own, own_scores = items[rows], log_probs[rows]
        if best:
            further = merged(own, torch.cat(best, dim=1))
            asked = further.masked_fill(further < 0, num_items).to(device)
            rescored = score_items(model, model.trie, history.to(device), asked, tables=tables)
            own = torch.cat([own, further], dim=1)
            own_scores = torch.cat([own_scores, rescored.cpu()], dim=1)
        found[rows], scores[rows] = own, own_scores
        missing = own < 0
        for name, value in values.items():
            picked = value.gather(1, own.clamp(min=0))
            features[name][rows] = picked.masked_fill(missing, 0.0)
        done += len(rows)
        if progress is not None:
            progress(done, len(items))
    return Candidates(items=found, log_probs=scores, features=features)


def scaled(score: Scorer) -> Scorer:
    """A floor's scores as a feature: each history's, divided by its greatest."""

    def shares(histories: Any) -> Float[Tensor, "batch items"]:
        scores = score(histories).float()
        return scores / scores.amax(dim=1, keepdim=True).clamp(min=1e-12)

    return shares


def seen_items(num_items: int, history_length: int) -> Scorer:
    """Minus 1 for the newest `history_length` items of a history, 0 for all others."""

    def seen(histories: Any) -> Float[Tensor, "batch items"]:
        found = np.zeros((len(histories), num_items), dtype=np.float32)
        for row, history in enumerate(histories):
            found[row, history[-history_length:]] = -1.0
        return torch.from_numpy(found)

    return seen


def popularity_correction(counts: Int[np.ndarray, " items"]) -> Scorer:
    """Minus the logarithm of how often an item was had: logit adjustment (Menon et al., 2021)."""
    adjusted = -torch.from_numpy(np.log1p(counts)).float()
    return lambda histories: adjusted.expand(len(histories), -1)


def _batches(model: Seq2Seq, histories: Any) -> Any:
    return query_batches(
        histories,
        num_items=model.trie.num_items,
        history_length=model.config.history_length,
        batch_size=128,
        by_length=True,
    )
