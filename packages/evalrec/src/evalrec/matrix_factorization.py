"""The trained floor: matrix factorisation by Bayesian personalised ranking (BPR).

Rendle et al., 2009, by the `implicit` library: `pip install 'evalrec[implicit]'`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from types import ModuleType
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Int
from scipy import sparse

from evalrec.evaluate import evaluate
from evalrec.interactions import flatten
from evalrec.scorers import EmbeddingScorer
from evalrec.splits import Queries, Split

__all__ = ["MatrixFactorizationFloor", "fit_matrix_factorization"]

# The settings that are tried on validation.
EPOCHS = (100, 300)
REGULARIZATIONS = (0.01, 0.03)
LEARNING_RATE = 0.05

Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class MatrixFactorizationFloor:
    """A vector for every training user and every item; an item's last coordinate is its bias.

    Unlike the other floors it uses users, not histories: it ignores what a user had after
    training, and scores a user without training by the biases only.

    Attributes:
        users: The user row of each user vector, ascending.
        user_vectors: [users, factors + 1]; the last coordinate is 1.
        item_vectors: [items, factors + 1]; the last coordinate is the bias.
        parameters: The parameters that were chosen on validation.
    """

    users: Int[np.ndarray, " users"]
    user_vectors: Float32[np.ndarray, "users dim"]
    item_vectors: Float32[np.ndarray, "items dim"]
    parameters: Mapping[str, float] = field(default_factory=dict)

    def scorer(self, queries: Queries) -> EmbeddingScorer:
        """The model that `evaluate` takes for these queries.

        Raises:
            ValueError: If the queries do not name their users.
        """
        if queries.users is None:
            raise ValueError("queries must name their users, got none")
        places = np.minimum(np.searchsorted(self.users, queries.users), len(self.users) - 1)
        vectors = self.user_vectors[places]
        strangers = self.users[places] != queries.users
        vectors[strangers] = 0.0
        vectors[strangers, -1] = 1.0
        return EmbeddingScorer(queries=vectors, items=self.item_vectors)


def fit_matrix_factorization(
    split: Split, *, num_factors: int = 64, seed: int = 0, progress: Progress | None = None
) -> MatrixFactorizationFloor:
    """Train on the training histories, with parameters chosen by NDCG@10 on validation.

    It uses one thread, so that the same seed gives the same vectors: half a minute on 150,000
    interactions.

    Args:
        split: Only `train` and `validation` are read.
        num_factors: Width of the vectors, the bias not counted.
        seed: The seed of the initial vectors and of the samples.
        progress: Called with the settings tried and the settings in all.

    Raises:
        ImportError: If `implicit` is not installed; the message names the extra.
        ValueError: If `num_factors` is not at least 1.
    """
    if num_factors < 1:
        raise ValueError(f"num_factors must be at least 1, got {num_factors}")
    bpr = _load()
    settings = list(product(EPOCHS, REGULARIZATIONS))
    k = min(10, split.num_items)
    order = np.argsort(split.users)
    best, highest = None, -1.0
    for tried, (epochs, regularization) in enumerate(settings, start=1):
        user_vectors, item_vectors = _train(bpr, split, num_factors, epochs, regularization, seed)
        floor = MatrixFactorizationFloor(
            users=split.users[order],
            user_vectors=user_vectors[order],
            item_vectors=item_vectors,
            parameters={"epochs": epochs, "regularization": regularization},
        )
        report = evaluate(split.validation, floor.scorer(split.validation), ks=(k,))
        value = float(report.per_user(f"ndcg@{k}", "unfiltered").mean())
        if value > highest:
            best, highest = floor, value
        if progress is not None:
            progress(tried, len(settings))
    assert best is not None
    return best


def _load() -> ModuleType:
    try:
        return import_module("implicit.cpu.bpr")
    except ImportError as error:
        raise ImportError(
            "matrix factorisation needs the implicit library: pip install 'evalrec[implicit]'"
        ) from error


def _train(
    bpr: ModuleType, split: Split, num_factors: int, epochs: int, regularization: float, seed: int
) -> tuple[Float32[np.ndarray, "users dim"], Float32[np.ndarray, "items dim"]]:
    from threadpoolctl import threadpool_limits

    owners, items = flatten(split.train)
    had = sparse.csr_matrix(
        (np.ones(len(items), dtype=np.float32), (owners, items)),
        shape=(len(split.train), split.num_items),
    )
    had.sum_duplicates()
    with threadpool_limits(limits=1, user_api="blas"):  # implicit warns about more threads
        model = bpr.BayesianPersonalizedRanking(
            factors=num_factors,
            learning_rate=LEARNING_RATE,
            regularization=regularization,
            iterations=epochs,
            num_threads=1,
            random_state=seed,
        )
        model.fit(had, show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)
