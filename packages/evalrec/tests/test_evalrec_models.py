"""What `evaluate` takes beside embeddings: score matrices, lists of lists, functions of users."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from evalrec import Queries, Report, evaluate, rank_items
from scipy import sparse

NUM_USERS, NUM_ITEMS = 7, 12


@pytest.fixture
def queries() -> Queries:
    rng = np.random.default_rng(0)
    return Queries(
        histories=[rng.integers(NUM_ITEMS, size=3) for _ in range(NUM_USERS)],
        targets=rng.integers(NUM_ITEMS, size=NUM_USERS),
        num_items=NUM_ITEMS,
        cold=np.zeros(NUM_USERS, dtype=bool),
        users=np.array([4, 9, 2, 0, 11, 7, 5]),
    )


def rated(dtype: type = np.float32) -> np.ndarray:
    """Scores with ties, zeros, and three of ten missing: minus infinity."""
    rng = np.random.default_rng(1)
    scores = rng.integers(-1, 4, size=(NUM_USERS, NUM_ITEMS)).astype(dtype)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    return scores


def by_function(queries: Queries, scores: np.ndarray, **options) -> Report:
    """The same scores as a function of histories gives them."""
    done = iter(torch.from_numpy(scores).split(options.get("batch_size", NUM_USERS)))
    return evaluate(queries, lambda histories: next(done), ks=(1, 3), **options)


def stored(scores: np.ndarray, kind=sparse.csr_array):
    """A sparse matrix that stores what is no minus infinity, zeros included."""
    rows, columns = np.nonzero(np.isfinite(scores))
    cells = (scores[rows, columns], (rows, columns))
    return kind(sparse.coo_array(cells, shape=scores.shape))


MATRICES = {
    "numpy": lambda scores: scores,
    "read-only": lambda scores: np.frombuffer(scores.tobytes(), scores.dtype).reshape(scores.shape),
    "columns first": np.asfortranarray,
    "torch": torch.from_numpy,
    "csr": stored,
    "coo": partial(stored, kind=sparse.coo_array),
    "csc matrix": partial(stored, kind=sparse.csc_matrix),
}


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_score_matrix_is_the_function_that_gives_it(queries, kind, dtype):
    scores = rated(dtype)
    options = {"batch_size": 3, "lists": True, "codes": np.arange(NUM_ITEMS)[:, None] // 2}
    report = evaluate(queries, MATRICES[kind](scores), ks=(1, 3), **options)
    assert report.to_json() == by_function(queries, scores, **options).to_json()
    assert report.metrics["unfiltered"]["recall@3"].mean > 0
    by_matrix = rank_items(queries, MATRICES[kind](scores), top_k=5, filter_seen=True, batch_size=2)
    by_scores = rank_items(queries, lambda _: scores, top_k=5, filter_seen=True)
    np.testing.assert_array_equal(by_matrix, by_scores)


def test_what_a_sparse_matrix_does_not_store_is_never_recommended(queries):
    shape = (NUM_USERS, NUM_ITEMS)
    scores = sparse.coo_array(([-5.0], ([0], queries.targets[:1])), shape=shape)
    assert rank_items(queries, scores, top_k=2)[0].tolist() == [queries.targets[0], -1]
    report = evaluate(queries, scores, ks=(1, NUM_ITEMS - 1))
    assert report.ranks["unfiltered"].tolist() == [1] + [NUM_ITEMS] * (NUM_USERS - 1)
    starts = np.array([0] + [3] * NUM_USERS)
    twice = sparse.csr_array((np.array([1.0, 2.5, 2.0]), np.array([3, 4, 3]), starts), shape=shape)
    assert rank_items(queries, twice, top_k=3)[0].tolist() == [3, 4, -1]  # what is stored adds up
    assert twice.data.tolist() == [1.0, 2.5, 2.0]


def test_lists_of_lists_are_the_table_that_they_fill(queries):
    ranked = rank_items(queries, lambda _: rated(), top_k=6)
    ranked[2] = -1
    lists = [[int(item) for item in row if item >= 0] for row in ranked]
    assert len({len(items) for items in lists}) > 1
    table = evaluate(queries, ranked, ks=(1, 3), lists=True)
    for same in (lists, tuple(map(tuple, lists)), [np.array(items, dtype=int) for items in lists]):
        assert evaluate(queries, same, ks=(1, 3), lists=True).to_json() == table.to_json()
    assert table.counts["short_lists"] > 0


def test_a_function_may_ask_for_users(queries):
    scores = rated()
    by_row = np.full((12, NUM_ITEMS), np.nan, dtype=np.float32)
    by_row[queries.users] = scores

    def score(histories, *, users):
        assert len(histories) == len(users)
        return by_row[users]

    class Module(torch.nn.Module):
        def forward(self, histories, *, users):
            return torch.from_numpy(score(histories, users=users))

    expected = by_function(queries, scores, batch_size=2).to_json()
    for model in (score, Module()):
        assert evaluate(queries, model, ks=(1, 3), batch_size=2).to_json() == expected
    np.testing.assert_array_equal(
        rank_items(queries, score, top_k=4), rank_items(queries, lambda _: scores, top_k=4)
    )
    bound = partial(lambda histories, *, users: scores, users="not asked for")
    assert evaluate(queries, bound, ks=(1, 3)).to_json() == expected
    nameless = Queries(
        histories=queries.histories,
        targets=queries.targets,
        num_items=NUM_ITEMS,
        cold=queries.cold,
    )
    with pytest.raises(ValueError, match="asks for users, whom these queries do not know"):
        evaluate(nameless, score, ks=(1, 3))


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (rated()[1:], ValueError, r"\[users, items\] = \[7, 12\], got shape \[6, 12\]"),
        (torch.ones(12, 7), ValueError, r"\[users, items\] = \[7, 12\], got shape \[12, 7\]"),
        (stored(rated())[:, 1:], ValueError, r"= \[7, 12\], got shape \[7, 11\]"),
        (np.ones(7), ValueError, r"= \[7, 12\], got shape \[7\]"),
        (sparse.csr_array(np.eye(7, 12, dtype=int)), TypeError, "scores must be floats .* got int"),
        (torch.eye(7, 12).to_sparse(), TypeError, r"dense or of scipy\.sparse"),
        (np.ones((7, 12), dtype=bool), TypeError, r"got bool of shape \[7, 12\]"),
        (np.ones((7, 12), dtype=np.longdouble), TypeError, "at most 64 bits"),
        (np.full((7, 12), np.nan), ValueError, "scores must be numbers, got NaN for user 0"),
        ([[0, 1, 2]] * 6, ValueError, "one list a user, 7, got 6"),
        ([[0, 1]] * 7, ValueError, r"at least max\(ks\) = 3 places, got 2"),
        ([[0.5, 1.0, 2.0]] * 7, TypeError, "item rows, whole numbers, .* got float64 .* user 0"),
        ([[0, 1, 2]] * 6 + [["a", "b", "c"]], TypeError, "whole numbers, .* for user 6"),
        ([[True, False, True]] * 7, TypeError, "whole numbers, .* got bool"),
        ("scores.npy", TypeError, "whole numbers"),
        (None, TypeError, "model must be embeddings, a function .* got NoneType"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_one_sentence(
    queries, model, error, words, unchecked
):
    with pytest.raises(error, match=words) as refusal:
        evaluate(queries, model, ks=(1, 3))
    assert "\n" not in str(refusal.value)
