from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from evalrec import Candidates, Choice, Queries, evaluate, pick_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NUM_USERS, NUM_CANDIDATES, NUM_ITEMS = 40, 12, 30
GRIDS = {"a": (0.0, 0.5, 1.0, 2.0), "b": (0.0, 1.0, 3.0)}


def candidates_of(seed: int, *, signal: float = 0.0) -> tuple[Candidates, np.ndarray]:
    """Candidates with coarse scores, which tie, and targets that the feature "a" may know."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(NUM_ITEMS)[:NUM_CANDIDATES] for _ in range(NUM_USERS)])
    items[: NUM_USERS // 2, -3:] = -1
    missing = items < 0
    targets = rng.integers(NUM_ITEMS, size=NUM_USERS)
    base = rng.integers(-4, 0, size=items.shape).astype(np.float32)
    base[missing] = -np.inf
    features = {name: rng.integers(3, size=items.shape).astype(np.float32) for name in "ab"}
    features["a"] += signal * (items == targets[:, None])
    for feature in features.values():
        feature[missing] = 0.0
    candidates = Candidates(
        items=torch.from_numpy(items),
        base=torch.from_numpy(base),
        features={name: torch.from_numpy(feature) for name, feature in features.items()},
    )
    return candidates, targets


def plain_order(candidates: Candidates, weights: dict[str, float], user: int) -> list[int]:
    scores = candidates.base[user].tolist()
    for name, weight in weights.items():
        values = candidates.features[name][user].tolist()
        scores = [score + weight * value for score, value in zip(scores, values, strict=True)]
    items = candidates.items[user].tolist()
    return [items[place] for place in sorted(range(len(items)), key=lambda place: -scores[place])]


@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.5, 2.0]), st.integers(1, 12))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_ndcg_is_that_of_the_ranked_lists(seed, weight, k):
    candidates, targets = candidates_of(seed)
    weights = {"a": weight, "b": 1.0}
    ranked = candidates.ranked(weights)
    queries = Queries(
        histories=[np.zeros(0, dtype=np.int64)] * NUM_USERS,
        targets=targets,
        num_items=NUM_ITEMS,
        cold=np.zeros(NUM_USERS, dtype=bool),
    )
    gains = []
    for user, target in enumerate(targets.tolist()):
        order = plain_order(candidates, weights, user)
        assert ranked[user].tolist() == order
        place = order.index(target) if target in order else k
        gains.append(1 / math.log2(place + 2) if place < k else 0.0)
    value = candidates.ndcg(targets, weights, k=k)
    assert value == pytest.approx(np.mean(gains), abs=1e-12)
    report = evaluate(queries, ranked, ks=(k,))
    assert value == pytest.approx(report.per_user(f"ndcg@{k}", "unfiltered").mean(), abs=1e-12)


def test_a_feature_takes_the_place_of_the_base():
    candidates, _ = candidates_of(0)
    on_a = candidates.on("a")
    missing = candidates.items < 0
    assert on_a.base[~missing].equal(candidates.features["a"][~missing])
    assert torch.isneginf(on_a.base[missing]).all()
    assert on_a.items is candidates.items
    assert on_a.scores({}).equal(on_a.base)


@pytest.mark.parametrize("seed", range(5))
def test_no_single_weight_improves_what_was_picked(seed):
    candidates, targets = candidates_of(seed, signal=1.0)
    choice = pick_weights(candidates, targets, GRIDS)
    assert choice.without == candidates.ndcg(targets, {})
    assert choice.validation == candidates.ndcg(targets, choice.weights) > choice.without
    assert list(choice.weights) == ["a", "b"]
    for name, grid in GRIDS.items():
        for weight in grid:
            value = candidates.ndcg(targets, {**choice.weights, name: weight})
            assert value <= choice.validation
            assert value < choice.validation or weight >= choice.weights[name]
    every = max(
        candidates.ndcg(targets, dict(zip(GRIDS, pair, strict=True)))
        for pair in itertools.product(*GRIDS.values())
    )
    assert choice.validation <= every


def test_what_does_not_help_is_left_out():
    candidates, targets = candidates_of(1)
    zeros = torch.zeros_like(candidates.base)
    useless = Candidates(items=candidates.items, base=candidates.base, features={"zero": zeros})
    choice = pick_weights(useless, targets, {"zero": (1.0, 0.0, 2.0)})
    assert choice.weights == {"zero": 0.0}
    assert choice.validation == choice.without
    alone = candidates.ndcg(targets, {})
    assert pick_weights(candidates, targets, {}) == Choice(
        weights={}, without=alone, validation=alone
    )


def test_a_weight_of_nothing_needs_no_feature():
    candidates, targets = candidates_of(0)
    assert candidates.scores({"other": 0.0}).equal(candidates.base)
    assert candidates.ndcg(targets, {"other": 0.0}) == candidates.ndcg(targets, {})


def test_blending_refuses_what_does_not_fit(unchecked):
    candidates, targets = candidates_of(0)
    with pytest.raises(ValueError, match=r"features must be among \['a', 'b'\], got 'c'"):
        candidates.scores({"c": 1.0})
    with pytest.raises(ValueError, match="got 'c'"):
        candidates.on("c")
    with pytest.raises(ValueError, match="got 'c'"):
        pick_weights(candidates, targets, {"c": (0.0,)})
    with pytest.raises(ValueError, match=r"grids must hold 0, .* got a: \(1.0,\)"):
        pick_weights(candidates, targets, {"a": (1.0,)})
    with pytest.raises(ValueError, match=r"targets must be one per user, 40, .* got 39 and 10"):
        candidates.ndcg(targets[:-1], {})
    with pytest.raises(ValueError, match="k at least 1, got 40 and 0"):
        candidates.ndcg(targets, {}, k=0)
    with pytest.raises(ValueError, match=r"a must be one score a candidate, \[40, 12\], got \[40"):
        Candidates(
            items=candidates.items,
            base=candidates.base,
            features={"a": candidates.features["a"][:, :-1]},
        )
