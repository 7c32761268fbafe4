"""Several scores of the same candidates, combined with weights that are chosen on validation.

A candidate is ranked by

    base + sum of weight * feature

where the base is a score that every candidate has, such as a model's log-probability. Each weight
comes from a grid that holds 0, so that a feature that does not help on validation is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Candidates", "Choice", "pick_weights"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Items to be ranked for each user, with their scores; all tensors are on one device.

    Attributes:
        items: Item rows, all different; -1 for empty places: [users, candidates].
        base: The score to which features are added, such as log p(item | history); minus infinity
            at empty places.
        features: Further scores by name, 0 at empty places.

    Raises:
        ValueError: If the base or a feature does not have one score per candidate.
    """

    items: Int[Tensor, "users candidates"]
    base: Float[Tensor, "users candidates"]
    features: Mapping[str, Float[Tensor, "users candidates"]]

    def __post_init__(self) -> None:
        for name, scores in {"base": self.base, **self.features}.items():
            if scores.shape != self.items.shape:
                raise ValueError(
                    f"{name} must be one score a candidate, {list(self.items.shape)}, "
                    f"got {list(scores.shape)}"
                )

    def on(self, feature: str) -> Candidates:
        """The same candidates, with a feature as the base.

        Raises:
            ValueError: If there is no feature of that name.
        """
        self.require(feature)
        base = self.features[feature].masked_fill(self.items < 0, -torch.inf)
        return replace(self, base=base)

    def scores(self, weights: Mapping[str, float]) -> Float[Tensor, "users candidates"]:
        """The combined scores of the items.

        Args:
            weights: Feature name to weight; features that are left out have weight 0.

        Raises:
            ValueError: If a feature with a weight other than 0 does not exist.
        """
        self.require(*(name for name, weight in weights.items() if weight))
        total = self.base
        for name, weight in weights.items():
            if weight:
                total = total + weight * self.features[name]
        return total

    def ranked(self, weights: Mapping[str, float]) -> Int[np.ndarray, "users candidates"]:
        """The items by combined score, best first; ties keep their order. `evaluate` takes it.

        Raises:
            ValueError: If a feature with a weight other than 0 does not exist.
        """
        order = self.scores(weights).argsort(dim=1, descending=True, stable=True)
        ranked: Int[np.ndarray, "users candidates"] = self.items.gather(1, order).cpu().numpy()
        return ranked

    def ndcg(
        self, targets: Int[np.ndarray, " users"], weights: Mapping[str, float], *, k: int = 10
    ) -> float:
        """Mean NDCG@k, unfiltered: what `evaluate` returns for `ranked(weights)`, without sorting.

        Args:
            targets: The next item of each user.
            weights: Feature name to weight.
            k: Cut-off.

        Raises:
            ValueError: If there is not one target per user, `k` is below 1, or a feature with a
                weight other than 0 does not exist.
        """
        if len(targets) != len(self.items) or k < 1:
            raise ValueError(
                f"targets must be one per user, {len(self.items)}, and k at least 1, "
                f"got {len(targets)} and {k}"
            )
        wanted = torch.tensor(targets, device=self.items.device)  # [users]
        scores = self.scores(weights)  # [users, candidates]
        hits = self.items == wanted[:, None]  # [users, candidates], at most one per row
        place = hits.int().argmax(dim=1, keepdim=True)  # [users, 1]; 0 where there is no hit
        target_score = scores.gather(1, place)  # [users, 1]
        # In a stable order, an earlier candidate with the target's score stays ahead of it.
        earlier = torch.arange(scores.shape[1], device=scores.device) < place
        ahead = (scores > target_score) | ((scores == target_score) & earlier)
        rank = ahead.sum(dim=1)  # [users], 0 is best
        gains = 1.0 / torch.log2(rank.double() + 2.0)
        return float((gains * (hits.any(dim=1) & (rank < k))).mean())

    def require(self, *names: str) -> None:
        """Refuse names of features that do not exist.

        Raises:
            ValueError: If there is no feature with one of the names.
        """
        for name in names:
            if name not in self.features:
                raise ValueError(f"features must be among {list(self.features)}, got {name!r}")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen weights, and their gain.

    Attributes:
        weights: Feature name to weight.
        without: Mean NDCG@k on validation of the base only, all items ranked.
        validation: The same with the weights.
    """

    weights: Mapping[str, float]
    without: float
    validation: float


def pick_weights(
    candidates: Candidates,
    targets: Int[np.ndarray, " users"],
    grids: Mapping[str, Sequence[float]],
    *,
    k: int = 10,
) -> Choice:
    """Choose weights by NDCG@k on validation: one feature after the other, each from its grid.

    All features are visited again until no weight changes. So every weight is the best one given
    the others, but the combination need not be the best of all.

    Args:
        candidates: The candidates of the validation users.
        targets: The next item of each user.
        grids: Feature name to the weights to try, 0 among them, in the order in which features are
            visited.
        k: Cut-off.

    Returns:
        The weights; of equally good ones, the smaller.

    Raises:
        ValueError: If a grid is for an unknown feature or lacks 0, there is not one target per
            user, or `k` is below 1.
    """
    candidates.require(*grids)
    for name, grid in grids.items():
        if 0 not in grid:
            raise ValueError(f"grids must hold 0, which leaves a feature out, got {name}: {grid}")
    weights = dict.fromkeys(grids, 0.0)
    without = best = candidates.ndcg(targets, weights, k=k)
    before = None
    while weights != before:
        before = dict(weights)
        for name, grid in grids.items():
            for weight in grid:
                value = candidates.ndcg(targets, {**weights, name: weight}, k=k)
                if value > best or (value == best and weight < weights[name]):
                    best, weights[name] = value, weight
    return Choice(weights=weights, without=without, validation=best)
