"""Values of a user's list besides hits: novelty, diversity, serendipity, calibration.

`evaluate(list_metrics=[...])` computes them at every cut-off and in both modes. Empty places of a
list are not counted; a list without any item has 0 novelty, diversity and serendipity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from evalrec.interactions import Histories, flatten
from evalrec.list_metrics import popularity_places

__all__ = [
    "Calibration",
    "CodeDiversity",
    "ListMetric",
    "Novelty",
    "Serendipity",
    "VectorDiversity",
]


@runtime_checkable
class ListMetric(Protocol):
    """A value of each user's first k items; your own metric needs only these members."""

    @property
    def name(self) -> str:
        """Its name in a report, before the `@` of the cut-off."""

    @property
    def num_items(self) -> int:
        """The number of items in the catalogue that it was made for."""

    def __call__(
        self,
        ranked: Int[np.ndarray, "batch k"],
        histories: Histories,
        targets: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, " batch"]:
        """The value of each list.

        Args:
            ranked: Item rows, best first; -1 at the end of shorter lists.
            histories: The items that each user had before.
            targets: The next item of each user.
        """


@dataclass(frozen=True, eq=False)
class Novelty:
    """Mean self-information of the items shown, in bits: -log2 of the share of users who have it.

    After Zhou et al. (2010). Differs: an item that no user has counts as if one user had it;
    otherwise its self-information would be infinite.

    Attributes:
        users_of_item: How many users have each item in training: [items].
        num_users: The number of users.

    Raises:
        ValueError: If a count is below 0 or above the number of users.
    """

    users_of_item: Int[np.ndarray, " items"]
    num_users: int
    name: str = field(default="novelty", kw_only=True)
    bits: Float[np.ndarray, " items"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        low, high = int(self.users_of_item.min()), int(self.users_of_item.max())
        if low < 0 or high > self.num_users or self.num_users < 1:
            raise ValueError(
                f"users_of_item must be in [0, num_users = {self.num_users}], got {low} to {high}"
            )
        bits = -np.log2(np.maximum(self.users_of_item, 1) / self.num_users)
        object.__setattr__(self, "bits", bits)

    @classmethod
    def fit(cls, histories: Histories, num_items: int) -> Novelty:
        """The novelty counted on some histories, such as `Split.train`, one per user."""
        owners, items = flatten(histories)
        pairs = np.unique(owners * num_items + items)  # an item counts once per user
        return cls(np.bincount(pairs % num_items, minlength=num_items), len(histories))

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.users_of_item)

    def __call__(
        self,
        ranked: Int[np.ndarray, "batch k"],
        histories: Histories,
        targets: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, " batch"]:
        """The mean self-information of each list."""
        shown = ranked >= 0
        totals = np.where(shown, self.bits[ranked], 0.0).sum(axis=1)  # [batch]
        means: Float[np.ndarray, " batch"] = totals / np.maximum(shown.sum(axis=1), 1)
        return means


@dataclass(frozen=True, eq=False)
class VectorDiversity:
    """Intra-list diversity: the mean of 1 - cosine over the pairs of items shown.

    After Smyth and McClave (2001). A list of fewer than two items has 0.

    Attributes:
        vectors: One per item, [items, dim], each of a length above 0.

    Raises:
        ValueError: If a vector is zero or not finite.
    """

    vectors: Float[np.ndarray, "items dim"]
    name: str = field(default="vector_diversity", kw_only=True)
    directions: Float[np.ndarray, "items dim"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        vectors = self.vectors.astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1)
        wrong = ~(np.isfinite(lengths) & (lengths > 0))
        if wrong.any():
            raise ValueError(
                "vectors must be finite and not zero, so that they have a direction, "
                f"got item {int(wrong.argmax())}"
            )
        object.__setattr__(self, "directions", vectors / lengths[:, None])

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.vectors)

    def __call__(
        self,
        ranked: Int[np.ndarray, "batch k"],
        histories: Histories,
        targets: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, " batch"]:
        """The diversity of each list."""
        shown = ranked >= 0
        directions = np.where(shown[:, :, None], self.directions[ranked], 0.0)  # [batch, k, dim]
        num_shown = shown.sum(axis=1)
        pairs = num_shown * (num_shown - 1) / 2
        # The square of a sum holds each pair twice, and each direction with itself once.
        squared = (directions.sum(axis=1) ** 2).sum(axis=1)  # [batch]
        cosines = (squared - num_shown) / 2
        return np.where(pairs > 0, 1.0 - cosines / np.maximum(pairs, 1), 0.0)


@dataclass(frozen=True, eq=False)
class CodeDiversity:
    """Intra-list diversity by semantic IDs: the share of levels in which two items shown differ.

    It is the mean over the pairs of items, as in `VectorDiversity`.

    Attributes:
        codes: The semantic IDs, [items, levels].
    """

    codes: Int[np.ndarray, "items levels"]
    name: str = field(default="code_diversity", kw_only=True)

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.codes)

    def __call__(
        self,
        ranked: Int[np.ndarray, "batch k"],
        histories: Histories,
        targets: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, " batch"]:
        """The diversity of each list."""
        shown = ranked >= 0
        places = np.arange(ranked.shape[1])
        # Each pair of places once, where both hold an item.
        pairs = shown[:, :, None] & shown[:, None, :] & (places[:, None] < places)  # [batch, k, k]
        differing = np.zeros(len(ranked))
        for codes in self.codes.T:  # [items] of one level
            level = codes[ranked]  # [batch, k]
            differing += (pairs & (level[:, :, None] != level[:, None, :])).sum(axis=(1, 2))
        num_levels = self.codes.shape[1]
        shares: Float[np.ndarray, " batch"] = differing / np.maximum(
            pairs.sum(axis=(1, 2)) * num_levels, 1
        )
        return shares


@dataclass(frozen=True, eq=False)
class Serendipity:
    """How much earlier the list has the target than a list of the most popular items would.

    After Murakami et al. (2008): the mean over the k places of max(0, place by popularity - place)
    / items for relevant items; here only the target is relevant. Equally popular items all have
    the first of their places.

    Attributes:
        item_counts: Interactions of each item in training: `Split.item_counts`.
    """

    item_counts: Int[np.ndarray, " items"]
    name: str = field(default="serendipity", kw_only=True)
    places: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", popularity_places(self.item_counts))

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.item_counts)

    def __call__(
        self,
        ranked: Int[np.ndarray, "batch k"],
        histories: Histories,
        targets: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, " batch"]:
        """The serendipity of each list."""
        hits = ranked == targets[:, None]  # [batch, k]
        earlier = self.places[targets] - hits.argmax(axis=1)  # from 0 on
        gains = np.maximum(earlier, 0) / (self.num_items * ranked.shape[1])
        return np.where(hits.any(axis=1), gains, 0.0)


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far the categories in the list are from those of the user's history; less is better.

    Steck (2018): the Kullback-Leibler divergence, in nats, of the shares q of the categories in the
    list from their shares p in the history, with (1 - alpha) q + alpha p instead of q. An item
    counts in equal parts for its categories; items without categories are not counted. A history
    without categories has the value 0.

    Attributes:
        categories: The categories of each item.
        alpha: How much of p is mixed into q, so that a category that is not shown costs a finite
            amount.

    Raises:
        ValueError: If no item has a category, or alpha is not in (0, 1).
    """

    categories: Sequence[Sequence[str]]
    alpha: float = field(default=0.01, kw_only=True)
    name: str = field(default="miscalibration", kw_only=True)
    shares: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1), got {self.alpha}")
        columns: dict[str, int] = {}
        rows, places, cells = [], [], []
        for row, names in enumerate(self.categories):
            if isinstance(names, str):
                raise ValueError(f"categories must be a list of each item, got {names!r}")
            distinct = dict.fromkeys(names)
            rows += [row] * len(distinct)
            places += [columns.setdefault(name, len(columns)) for name in distinct]
            cells += [1 / len(distinct) for _ in distinct]
        if not columns:
            raise ValueError("categories must be of at least one item, got none")
        shape = (len(self.categories), len(columns))
        object.__setattr__(self, "shares", sparse.csr_array((cells, (rows, places)), shape=shape))

    @property
    def num_items(self) -> int:
        """Items of the catalogue."""
        return len(self.categories)

    def __call__(
        self,
        ranked: Int[np.ndarray, "batch k"],
        histories: Histories,
        targets: Int[np.ndarray, " batch"],
    ) -> Float[np.ndarray, " batch"]:
        """The divergence of each list."""
        owners, items = flatten(histories)
        wanted = self._distributions(owners, items, len(ranked))  # [batch, categories]
        users, places = np.nonzero(ranked >= 0)
        shown = self._distributions(users, ranked[users, places], len(ranked))
        mixed = (1 - self.alpha) * shown + self.alpha * wanted
        has_share = wanted > 0
        ratios = np.divide(wanted, mixed, out=np.ones_like(wanted), where=has_share)
        divergences: Float[np.ndarray, " batch"] = (wanted * np.log(ratios)).sum(axis=1)
        return divergences

    def _distributions(
        self, owners: Int[np.ndarray, " pairs"], items: Int[np.ndarray, " pairs"], batch: int
    ) -> Float[np.ndarray, "batch categories"]:
        """The shares of the categories among the items of each user; zeros without categories."""
        cells = (np.ones(len(owners)), (owners, items))
        totals = (sparse.csr_array(cells, shape=(batch, self.num_items)) @ self.shares).toarray()
        sums = totals.sum(axis=1, keepdims=True)
        shares: Float[np.ndarray, "batch categories"] = np.zeros_like(totals)
        np.divide(totals, sums, out=shares, where=sums > 0)
        return shares
