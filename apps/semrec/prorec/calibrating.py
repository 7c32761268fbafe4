"""How much network, floors and popularity count in the tree, chosen on users whom none saw.

Likelihood first, which fits all numbers at once; it asks how probable every item is, while a list
is judged by its first ten. So the weights are then moved, a step at a time, where NDCG@10 rises by
more than chance would have it. Beyond the paper.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from evalrec import Queries
from genrec import Seq2Seq, calibrate
from jaxtyping import Float

FACTOR = 1.25
"""By which a weight grows or shrinks in a step."""

POPULARITY_STEP = 0.1
"""By which the weight of popularity changes in a step."""

MOST_STEPS = 6
"""Most steps of a weight, up or down."""

_ROUNDS = 2

PerUser = Callable[[Seq2Seq], Float[np.ndarray, " users"]]
"""From a model to its NDCG@10 for each validation user."""


def calibrate_tree(
    model: Seq2Seq,
    validation: Queries,
    kinds: Sequence[str],
    per_user: PerUser,
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Weighs what is in the tree: by likelihood, then by NDCG@10.

    Args:
        model: A model with an item graph; in eval mode afterwards.
        validation: The users of early stopping.
        kinds: What the graph's kinds of scores are called.
        per_user: What is to rise.
        progress: Is told how many rankings were made.

    Returns:
        The likelihood before and after, the numbers, and the steps of each weight.
    """
    numbers = model.score_logits
    assert numbers is not None
    numbers.popularity.data.fill_(0.0)
    gain = calibrate(model, validation.histories, validation.targets)
    steps = _climb(_moves(model, kinds), lambda: per_user(model), progress)
    return {
        **dataclasses.asdict(gain),
        "scale": numbers.scale.tolist(),
        "weight": (10 * numbers.weight).tolist(),
        "popularity": float(numbers.popularity),
        "steps": steps,
    }


Move = Callable[[int], None]
"""Puts a weight so many steps from where likelihood had it."""


def _moves(model: Seq2Seq, kinds: Sequence[str]) -> dict[str, Move]:
    """The weights that can be moved, by name."""
    numbers = model.score_logits
    assert numbers is not None
    scale, weight = numbers.scale.detach().clone(), numbers.weight.detach().clone()

    @torch.no_grad()
    def popularity(steps: int) -> None:
        numbers.popularity.fill_(-POPULARITY_STEP * steps)

    @torch.no_grad()
    def network(steps: int) -> None:
        numbers.scale.copy_(scale * FACTOR**steps)

    def floor(kind: int) -> Move:
        @torch.no_grad()
        def move(steps: int) -> None:
            numbers.weight[:, kind] = weight[:, kind] * FACTOR**steps

        return move

    floors = {name: floor(kind) for kind, name in enumerate(kinds)}
    return {"popularity": popularity, "network": network, **floors}


def _climb(
    moves: dict[str, Move],
    reached: Callable[[], Float[np.ndarray, " users"]],
    progress: Callable[[int], None],
) -> dict[str, int]:
    """Moves one weight after the other, while the mean over users rises by its standard error.

    Returns:
        The steps of each.
    """
    steps, best, tried = dict.fromkeys(moves, 0), reached(), 1
    progress(tried)
    for _ in range(_ROUNDS):
        before = dict(steps)
        for name, move in moves.items():
            for direction in (1, -1):
                first = steps[name]
                while abs(steps[name] + direction) <= MOST_STEPS:
                    move(steps[name] + direction)
                    values = reached()
                    tried += 1
                    progress(tried)
                    if not _rises(values - best):
                        break
                    steps[name] += direction
                    best = values
                move(steps[name])
                if steps[name] != first:  # it rose this way: it does not rise the other way
                    break
        if steps == before:
            break
    return steps


def _rises(gains: Float[np.ndarray, " users"]) -> bool:
    """Whether a mean gain is more than its standard error."""
    return bool(gains.mean() > gains.std() / np.sqrt(len(gains)))
