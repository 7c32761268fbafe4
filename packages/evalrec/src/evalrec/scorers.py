"""The kinds of models that `evaluate` takes, and how it gets the scores of a batch of users."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from evalrec.splits import Queries
from evalrec.tiles import EmbeddingTile, ScoreTile, Tile

Scorer: TypeAlias = Callable[..., Float[Tensor, "batch items"] | Float[np.ndarray, "batch items"]]
"""From a batch of histories to a score for every item; higher is better.

A function that has a keyword `users` without a default, as `def score(histories, *, users)`, also
gets the rows of the batch's users, an array of int64: `Queries.users`.
"""

Scores: TypeAlias = (
    Float[Tensor, "users items"]
    | Float[np.ndarray, "users items"]
    | sparse.sparray
    | sparse.spmatrix
)
"""A score for every query and item. An item that a sparse matrix does not store has minus infinity:
it is not recommended. A stored zero is a score."""

RankedLists: TypeAlias = (
    Int[Tensor, "users k"]
    | Int[np.ndarray, "users k"]
    | Sequence[Sequence[int] | Int[np.ndarray, " _"]]
)
"""Item rows, best first: a table, with -1 at the end of shorter lists; or a list per query."""

QueryVectors: TypeAlias = (
    Float[Tensor, "users dim"]
    | Float[np.ndarray, "users dim"]
    | Callable[..., Float[Tensor, "batch dim"]]
)

# Scores held at once if no batch size is set: 16 MiB in fp32, small enough to be allocated from the
# heap instead of fresh pages. Batches too small for an efficient matrix product are only used where
# larger ones would fill 256 MiB.
_BATCH_CELLS = 2**22
_MOST_CELLS = 2**26
_LEAST_BATCH = 16
_EMBEDDING_BATCH = 1024
_CHECKED_ROWS = 2**14


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingScorer:
    """The score of an item is the inner product of its vector and the user's vector.

    `evaluate` ranks it block by block: for any catalogue, it needs a few MiB besides the vectors.
    Where fp32 cannot decide a comparison, products are compared in double precision. So copies of
    an item tie, and ranks depend on the vectors only. For cosine similarity, normalise the vectors.
    For a bias, append it to the item vectors and append 1 to the user vectors.

    Attributes:
        queries: One vector per user, [users, dim], in the order of the evaluated queries; or a
            function from a batch of histories to their vectors, on the items' device. It may have
            a keyword `users`, like a `Scorer`.
        items: One vector per item, [items, dim], in fp32, fp16 or bf16, kept as it is. Scores are
            computed in fp32 on its device.

    Raises:
        TypeError: If the vectors have another type.
        ValueError: If their widths differ, or a vector is not finite or too large for fp32.
    """

    queries: QueryVectors
    items: Float[Tensor, "items dim"] | Float[np.ndarray, "items dim"]
    largest_norm: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        items = _vectors("items", self.items)
        object.__setattr__(self, "items", items)
        if not callable(self.queries):
            queries = _vectors("queries", self.queries)
            object.__setattr__(self, "queries", queries.to(items.device))
        largest = 0.0
        for start in range(0, len(items), _CHECKED_ROWS):
            largest = max(
                largest, _largest_norm("items", items[start : start + _CHECKED_ROWS], start)
            )
        object.__setattr__(self, "largest_norm", largest)

    def tile(self, queries: Queries, part: slice) -> EmbeddingTile:
        """The users of a slice, prepared for ranking."""
        items = self.items
        assert isinstance(items, Tensor)
        if callable(self.queries):
            with torch.no_grad():
                vectors = _vectors("queries", _call(self.queries, queries, part))
            if len(vectors) != part.stop - part.start:
                raise ValueError(
                    f"queries must give one vector a history, {part.stop - part.start}, "
                    f"got {len(vectors)}"
                )
        else:
            assert isinstance(self.queries, Tensor)
            vectors = self.queries[part]
        if vectors.shape[1] != items.shape[1] or vectors.device != items.device:
            raise ValueError(
                f"queries must have the width and device of items, {items.shape[1]} on "
                f"{items.device}, got {vectors.shape[1]} on {vectors.device}"
            )
        norm = _largest_norm("queries", vectors, part.start)
        if norm * self.largest_norm > torch.finfo(torch.float32).max:
            raise ValueError("products of queries and items must fit fp32, got too large vectors")
        return EmbeddingTile(vectors.float().contiguous(), items, self.largest_norm)


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores that were computed before, a row per query.

    Attributes:
        scores: A dense array, or the rows of a sparse matrix.
    """

    scores: Tensor | np.ndarray | sparse.csr_array

    def rows(self, part: slice) -> Float[Tensor, "batch items"]:
        """The scores of some users; minus infinity where a sparse matrix stores nothing."""
        if isinstance(self.scores, Tensor):
            return self.scores[part]
        if isinstance(self.scores, np.ndarray):
            return torch.from_numpy(np.array(self.scores[part]))  # a copy: it may be read-only
        stored = self.scores[part]
        dense = np.full(stored.shape, -np.inf, dtype=stored.dtype)
        dense[np.repeat(np.arange(stored.shape[0]), np.diff(stored.indptr)), stored.indices] = (
            stored.data
        )
        return torch.from_numpy(dense)


def scorer_of(
    queries: Queries, model: Any, *, num_items: int | None = None
) -> Scorer | ScoreMatrix | EmbeddingScorer:
    """Embeddings and functions unchanged, and a table of scores after its checks.

    Args:
        queries: Whom the model scores.
        model: What it is.
        num_items: How many items it scores; None for all.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the table is not one row per query and one column per item.
    """
    if isinstance(model, EmbeddingScorer):
        return model
    if callable(model):
        scorer: Scorer = model
        return scorer
    return score_matrix(queries, model, num_items=num_items)


def score_matrix(queries: Queries, scores: Any, *, num_items: int | None = None) -> ScoreMatrix:
    """Checks a table of scores; of all items if `num_items` is None.

    Raises:
        TypeError: If it is not a table of floats.
        ValueError: If it is not one row per query and one column per item.
    """
    is_sparse = sparse.issparse(scores)
    if not is_sparse and not isinstance(scores, Tensor | np.ndarray):
        raise TypeError(
            "model must be embeddings, a function of histories, scores [users, items] or ranked "
            f"lists, got {type(scores).__name__}"
        )
    floats = ("float16", "bfloat16", "float32", "float64")
    is_strided = not isinstance(scores, Tensor) or scores.layout == torch.strided
    if str(scores.dtype).removeprefix("torch.") not in floats or not is_strided:
        raise TypeError(
            "scores must be floats of at most 64 bits, dense or of scipy.sparse, and ranked lists "
            f"int [users, k], got {scores.dtype} of shape {list(scores.shape)}"
        )
    shape = (len(queries), num_items or queries.num_items)
    if tuple(scores.shape) != shape:
        raise ValueError(
            f"scores must be a row per query and a column per item, [users, items] = {list(shape)},"
            f" got shape {list(scores.shape)}"
        )
    if is_sparse:
        scores = sparse.csr_array(scores)
        if not scores.has_canonical_format:
            scores = scores.copy()  # it may share its data with the caller's matrix
            scores.sum_duplicates()
    return ScoreMatrix(scores)


def padded_lists(lists: Sequence[Any]) -> Int[np.ndarray, "users k"]:
    """A list of lists of item rows as one table, padded with -1 at the end of shorter lists.

    Raises:
        TypeError: If a list holds anything but whole numbers.
    """
    arrays = [np.asarray(items) for items in lists]
    for user, items in enumerate(arrays):
        if items.ndim != 1 or (items.size and items.dtype.kind not in "iu"):
            raise TypeError(
                "ranked must hold a list of item rows, whole numbers, for every user, "
                f"got {items.dtype} of shape {list(items.shape)} for user {user}"
            )
    ranked = np.full((len(arrays), max(map(len, arrays), default=0)), -1, dtype=np.int64)
    for row, items in zip(ranked, arrays, strict=True):
        row[: len(items)] = items
    return ranked


def user_slices(
    queries: Queries,
    model: Scorer | ScoreMatrix | EmbeddingScorer,
    batch_size: int | None,
    *,
    num_items: int | None = None,
) -> list[slice]:
    """The batches of users, so that a table [users, items] is never in memory as a whole.

    Args:
        queries: The users.
        model: What scores items for them.
        batch_size: Users at once; None holds about four million scores.
        num_items: How many items it scores; None for all.

    Raises:
        ValueError: If the batch size, the number of items or the number of query vectors is wrong.
    """
    if num_items is None:
        num_items = queries.num_items
    if isinstance(model, EmbeddingScorer):
        if len(model.items) != num_items:
            raise ValueError(
                f"items must be one vector per item, {num_items}, got {len(model.items)}"
            )
        if isinstance(model.queries, Tensor) and len(model.queries) != len(queries):
            raise ValueError(
                f"queries must be one vector per user, {len(queries)}, got {len(model.queries)}"
            )
    if batch_size is None:
        if isinstance(model, EmbeddingScorer):
            batch_size = _EMBEDDING_BATCH
        else:
            least = min(_LEAST_BATCH, _MOST_CELLS // num_items)
            batch_size = max(1, least, _BATCH_CELLS // num_items)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    starts = range(0, len(queries), batch_size)
    return [slice(start, min(start + batch_size, len(queries))) for start in starts]


def tile_of(
    queries: Queries,
    model: Scorer | ScoreMatrix | EmbeddingScorer,
    part: slice,
    *,
    num_items: int | None = None,
) -> Tile:
    """Some users, with their scores or prepared for scoring; all items if `num_items` is None.

    Raises:
        ValueError: If the scores are not floats of shape [batch, items], or one is NaN.
    """
    if isinstance(model, EmbeddingScorer):
        return model.tile(queries, part)
    with torch.no_grad():
        if isinstance(model, ScoreMatrix):
            scores = model.rows(part)
        else:
            scores = torch.as_tensor(_call(model, queries, part))
    shape = (part.stop - part.start, num_items or queries.num_items)
    if tuple(scores.shape) != shape or not scores.is_floating_point():
        raise ValueError(
            f"scores must be floats of shape [batch, items] = {list(shape)}, "
            f"got {scores.dtype} of shape {list(scores.shape)}"
        )
    # A sum without NaN proves that there is none, in a tenth of the time of checking each score.
    if scores.sum().isnan() and scores.isnan().any():
        user = part.start + int(scores.isnan().any(dim=1).nonzero()[0])
        raise ValueError(f"scores must be numbers, got NaN for user {user}")
    return ScoreTile(scores.detach())


def _call(function: Callable[..., Any], queries: Queries, part: slice) -> Any:
    """The result of a function for some users, from their histories and, if it needs them, rows.

    Raises:
        ValueError: If it needs the rows of the users and the queries do not have them.
    """
    if not _asks_for_users(function):
        return function(queries.histories[part])
    if queries.users is None:
        raise ValueError(
            "the function asks for users, whom these queries do not know: Queries(users=...)"
        )
    return function(queries.histories[part], users=queries.users[part])


def _asks_for_users(function: Callable[..., Any]) -> bool:
    """Whether a function has a required keyword `users`."""
    called = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        users = inspect.signature(called).parameters.get("users")
    except ValueError:  # compiled code may have no signature
        return False
    return users is not None and users.kind is users.KEYWORD_ONLY and users.default is users.empty


def _vectors(name: str, vectors: Tensor | np.ndarray) -> Float[Tensor, "rows dim"]:
    tensor = torch.from_numpy(vectors) if isinstance(vectors, np.ndarray) else vectors.detach()
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16) or tensor.ndim != 2:
        raise TypeError(
            f"{name} must be a table of fp32, fp16 or bf16 vectors, "
            f"got {tensor.dtype} of shape {list(tensor.shape)}"
        )
    if tensor.numel() == 0:
        raise ValueError(f"{name} must hold vectors, got shape {list(tensor.shape)}")
    return tensor


def _largest_norm(name: str, vectors: Float[Tensor, "rows dim"], first_row: int) -> float:
    norms = vectors.double().square().sum(dim=1)
    largest = float(norms.max())
    if not math.isfinite(largest):
        row = first_row + int(norms.isfinite().logical_not().nonzero()[0])
        what = "NaN" if vectors[row - first_row].isnan().any() else "infinity"
        raise ValueError(f"{name} must be finite vectors, got {what} in row {row}")
    return math.sqrt(largest)
