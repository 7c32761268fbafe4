"""Floors: baselines that any model must beat, fitted in seconds on training histories only.

They are popularity and item-to-item models. An item-to-item model scores a history by adding up
the rows of a sparse item-by-item matrix for its last items, and uses the same `evaluate` as every
model. Fitting is only counting; together with text, floors beat many published networks.
`evalrec.matrix_factorization` has the one floor that is trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy import sparse
from torch import Tensor

from evalrec.documents import count, finite, has_format, mapping, read_json, refusing
from evalrec.evaluate import evaluate
from evalrec.interactions import DataError, Histories, count_items, flatten
from evalrec.item_to_item import (
    SparseMatrix,
    cooccurrences,
    cosine_neighbours,
    text_neighbours,
    transitions,
)
from evalrec.splits import Queries, Split
from evalrec.storage import recover_folder, replacing_folder

__all__ = ["Floor", "ItemToItemFloor", "PopularityFloor", "fit_floors", "recount_floors"]

# Settings that are chosen on validation. Neither Amazon Beauty nor Amazon Games chooses the ends of
# these grids. First, how fast the history is forgotten (after these items, decay has left a
# hundredth), then the weight of text. The graph itself is fixed: pairs within 50 steps, with weight
# 1 / distance forward and half of it backward.
LAST_ITEMS = 20
DECAYS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TEXT_WEIGHTS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0)
# Of item-kNN, over the whole history: first the shrinkage, with this number of neighbours.
SHRINKAGES = (0.0, 10.0, 30.0, 60.0, 100.0, 200.0, 500.0)
MIDDLING_NEIGHBOURS = 50
NEIGHBOURS = (5, 10, 20, 100, 200, 400)

_FORMAT = 1
_CONFIG_FILE, _MATRIX_FILE = "floor.json", "matrix.npz"

Progress: TypeAlias = Callable[[int, int], None]


@runtime_checkable
class Floor(Protocol):
    """A fitted floor: `evaluate(queries, floor.score)`."""

    @property
    def parameters(self) -> Mapping[str, float]:
        """The parameters that were chosen on validation; empty if there are none to choose."""

    def score(self, histories: Histories) -> Float[Tensor, "batch items"]:
        """A score for every item after each history; higher is better."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PopularityFloor:
    """Scores every item by how many interactions it has; the history is not used."""

    counts: Float32[np.ndarray, " items"]
    parameters: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, histories: Histories, num_items: int) -> PopularityFloor:
        """Count the items of the training histories."""
        return cls(counts=count_items(histories, num_items).astype(np.float32))

    def score(self, histories: Histories) -> Float[Tensor, "batch items"]:
        """The counts, for each history."""
        return torch.from_numpy(np.tile(self.counts, (len(histories), 1)))


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemToItemFloor:
    """Adds up the rows of a sparse matrix for the last items of the history.

    The item `a` steps before the last one has the weight `decay ** a`, for a < `last_items`.

    Attributes:
        matrix: The matrix, [items, items].
        last_items: How many items of the history count; None for all.
        decay: Weight of each further step into the past.
        parameters: The parameters that were chosen on validation.
    """

    matrix: SparseMatrix
    last_items: int | None
    decay: float
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.last_items is not None and self.last_items < 1:
            raise ValueError(f"last_items must be at least 1, got {self.last_items}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}")

    def score(self, histories: Histories) -> Float[Tensor, "batch items"]:
        """Scores in fp32; an empty history gives 0 for every item."""
        recent = [history[::-1][: self.last_items] for history in histories]
        owners, items = flatten(recent)
        ages = np.concatenate([np.arange(len(history)) for history in recent])
        weights = sparse.csr_array(
            ((self.decay**ages).astype(np.float32), (owners, items)),
            shape=(len(histories), self.matrix.shape[0]),
        )
        return torch.from_numpy((weights @ self.matrix).toarray())

    def keeping(self, old: ItemToItemFloor) -> ItemToItemFloor:
        """This floor, with the entries of an older floor for pairs of items that both have.

        Args:
            old: A floor on fewer items, which are the first ones here. For example: items were
                added to its catalogue, and their words would change all similarities.

        Raises:
            ValueError: If it has more items than this floor.
        """
        num_old, num_items = old.matrix.shape[0], self.matrix.shape[0]
        if num_old > num_items:
            raise ValueError(f"old must have at most {num_items} items, got {num_old}")
        entries, kept = self.matrix.tocoo(), old.matrix.tocoo()
        is_new = (entries.row >= num_old) | (entries.col >= num_old)
        rows = np.concatenate([entries.row[is_new], kept.row])
        columns = np.concatenate([entries.col[is_new], kept.col])
        values = np.concatenate([entries.data[is_new], kept.data])
        matrix = sparse.csr_array((values, (rows, columns)), shape=self.matrix.shape)
        return replace(self, matrix=matrix)

    def save(self, folder: str | Path) -> None:
        """Write the floor to a folder, whole or not at all; the same floor writes the same bytes.

        `floor.json` holds the settings and a SHA-256 of `matrix.npz`, which is scipy's format of
        sparse arrays and holds no pickle.

        Args:
            folder: The target; an older saved floor there is replaced.

        Raises:
            FileExistsError: If the folder holds anything else, which would be lost.
        """
        folder = Path(folder)
        files = {path.name for path in folder.iterdir()} if folder.exists() else set()
        if not files <= {_CONFIG_FILE, _MATRIX_FILE}:
            raise FileExistsError(f"{folder} holds more than a saved floor, so it is not replaced")
        with replacing_folder(folder) as beside:
            sparse.save_npz(beside / _MATRIX_FILE, self.matrix, compressed=False)
            config = {
                "format": _FORMAT,
                "last_items": self.last_items,
                "decay": self.decay,
                "parameters": dict(self.parameters),
                "matrix_sha256": _sha256(beside / _MATRIX_FILE),
            }
            text = json.dumps(config, indent=2) + "\n"
            (beside / _CONFIG_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> ItemToItemFloor:
        """Loads the floor that `save` wrote.

        Raises:
            DataError: If the folder is missing, of another format, incomplete or damaged.
        """
        path, matrix_path = Path(folder) / _CONFIG_FILE, Path(folder) / _MATRIX_FILE
        recover_folder(Path(folder))
        for file in (path, matrix_path):
            if not file.is_file():
                raise DataError(f"{file} is missing, so {folder} is not a saved floor")
        config = read_json(path)
        if not has_format(config, _FORMAT):
            raise DataError(f"{path} must be of format {_FORMAT}, which ItemToItemFloor writes")
        with refusing(path):
            if config["matrix_sha256"] != _sha256(matrix_path):
                raise DataError(f"{matrix_path} is damaged or of another floor: {path} disagrees")
            last_items = config["last_items"]
            settings = mapping("parameters", config["parameters"])
            with refusing(matrix_path):
                matrix = _load_matrix(matrix_path)
            return cls(
                matrix=matrix,
                last_items=None if last_items is None else count("last_items", last_items),
                decay=finite("decay", config["decay"]),
                parameters={name: finite(name, value) for name, value in settings.items()},
            )


def _load_matrix(path: Path) -> SparseMatrix:
    """The square matrix in a file, after checks of its indices and values."""
    matrix = sparse.csr_array(sparse.load_npz(path))
    matrix.check_format(full_check=True)
    if matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix.data).all():
        raise ValueError(f"the matrix must be square and finite, got {matrix.shape}")
    return matrix


def fit_floors(
    split: Split, texts: Sequence[str] | None = None, *, progress: Progress | None = None
) -> dict[str, Floor]:
    """Fit every floor on the training histories, its parameters by NDCG@10 on validation.

    Args:
        split: Only `train` and `validation` are read; the test is not used.
        texts: One text per item, such as its title and categories joined; without texts there is no
            "text" and no "graph + text".
        progress: Called with the settings tried and the settings in all.

    Returns:
        "popularity", "markov", "item-knn", "graph" and, with texts, "text" and "graph + text", in
        this order. Each has its chosen `parameters`.

    Raises:
        ValueError: If `texts` is not one text per item, or holds no word at all.
    """
    if texts is not None and len(texts) != split.num_items:
        raise ValueError(f"texts must be one per item, {split.num_items}, got {len(texts)}")
    num_settings = len(SHRINKAGES) + len(NEIGHBOURS) + len(DECAYS)
    if texts is not None:
        num_settings += len(DECAYS) + len(TEXT_WEIGHTS)
    choice = _Choice(split.validation, num_settings, progress)
    floors: dict[str, Floor] = {
        "popularity": PopularityFloor.fit(split.train, split.num_items),
        "markov": ItemToItemFloor(
            matrix=transitions(split.train, split.num_items), last_items=1, decay=1.0
        ),
        "item-knn": _fit_item_knn(split, choice),
    }
    graph = choice.best_of(_by_recency(cooccurrences(split.train, split.num_items)))
    floors["graph"] = graph
    if texts is not None:
        neighbours = text_neighbours(texts)
        floors["text"] = choice.best_of(_by_recency(neighbours))
        floors["graph + text"] = choice.best_of(
            replace(
                graph,
                matrix=graph.matrix + weight * neighbours,
                parameters={**graph.parameters, "text_weight": weight},
            )
            for weight in TEXT_WEIGHTS
        )
    return floors


def recount_floors(
    split: Split,
    parameters: Mapping[str, Mapping[str, float]],
    texts: Sequence[str] | None = None,
) -> dict[str, Floor]:
    """Count every floor again, with parameters that were chosen before.

    Args:
        split: Only `train` is read.
        parameters: The parameters that `fit_floors` chose, by the name of the floor. Only these
            floors are counted.
        texts: One text per item; needed if "text" or "graph + text" is among the floors.

    Raises:
        ValueError: If `texts` are needed and are not one text per item, or hold no word at all.
    """
    if "text" in parameters and (texts is None or len(texts) != split.num_items):
        got = "none" if texts is None else len(texts)
        raise ValueError(f"texts must be one per item, {split.num_items}, got {got}")
    count_of, histories = split.num_items, split.train
    graph = cooccurrences(histories, count_of)
    floors: dict[str, Floor] = {
        "popularity": PopularityFloor.fit(histories, count_of),
        "markov": ItemToItemFloor(matrix=transitions(histories, count_of), last_items=1, decay=1.0),
        "item-knn": _item_knn(split, parameters["item-knn"]),
        "graph": _with_recency(graph, parameters["graph"]),
    }
    if "text" in parameters:
        assert texts is not None
        neighbours = text_neighbours(texts)
        weight = parameters["graph + text"]["text_weight"]
        floors["text"] = _with_recency(neighbours, parameters["text"])
        floors["graph + text"] = _with_recency(
            graph + weight * neighbours, parameters["graph + text"]
        )
    return floors


def _item_knn(split: Split, setting: Mapping[str, float]) -> ItemToItemFloor:
    """item-kNN with "num_neighbours" and "shrinkage" of a setting."""
    matrix = cosine_neighbours(
        split.train,
        split.num_items,
        num_neighbours=int(setting["num_neighbours"]),
        shrinkage=setting["shrinkage"],
    )
    return ItemToItemFloor(matrix=matrix, last_items=None, decay=1.0, parameters=setting)


def _with_recency(matrix: SparseMatrix, setting: Mapping[str, float]) -> ItemToItemFloor:
    """A matrix with "last_items" and "decay" of a setting."""
    return ItemToItemFloor(
        matrix=matrix,
        last_items=int(setting["last_items"]),
        decay=setting["decay"],
        parameters=setting,
    )


def _fit_item_knn(split: Split, choice: _Choice) -> ItemToItemFloor:
    """The best shrinkage for a medium number of neighbours, then the best number of neighbours."""

    def floor(num_neighbours: int, shrinkage: float) -> ItemToItemFloor:
        return _item_knn(split, {"num_neighbours": num_neighbours, "shrinkage": shrinkage})

    shrunk = choice.best_of(floor(MIDDLING_NEIGHBOURS, shrinkage) for shrinkage in SHRINKAGES)
    shrinkage = shrunk.parameters["shrinkage"]
    return choice.best_of((floor(number, shrinkage) for number in NEIGHBOURS), beside=shrunk)


def _by_recency(matrix: SparseMatrix) -> Iterator[ItemToItemFloor]:
    """One matrix with every setting of how fast the history is forgotten."""
    for decay in DECAYS:
        yield _with_recency(matrix, {"last_items": LAST_ITEMS, "decay": decay})


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Choice:
    """Chooses floors by NDCG@10 on validation, and counts the settings tried."""

    def __init__(self, validation: Queries, num_settings: int, progress: Progress | None) -> None:
        self.validation, self.num_settings, self.progress = validation, num_settings, progress
        self.k = min(10, validation.num_items)
        self.num_tried = 0
        self.highest = -1.0  # the NDCG of the best floor of the last call

    def best_of(
        self, candidates: Iterable[ItemToItemFloor], *, beside: ItemToItemFloor | None = None
    ) -> ItemToItemFloor:
        """The best floor, the first of equals; `beside` is the best of the previous call."""
        best, highest = beside, -1.0 if beside is None else self.highest
        for candidate in candidates:
            report = evaluate(self.validation, candidate.score, ks=(self.k,))
            value = float(report.per_user(f"ndcg@{self.k}", "unfiltered").mean())
            if value > highest:
                best, highest = candidate, value
            self.num_tried += 1
            if self.progress is not None:
                self.progress(self.num_tried, self.num_settings)
        assert best is not None
        self.highest = highest
        return best
