"""Sparse item-by-item matrices: the score that an item in the history adds to other items."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import torch
from scipy import sparse

from evalrec.interactions import Histories, count_items, flatten

SparseMatrix: TypeAlias = sparse.csr_array
"""items x items in fp32; entry (i, j) is what item i in the history adds to the score of item j."""

CHUNK_CELLS = 2**22  # similarities in memory at once
# Scripts without spaces between words: each of their characters counts as a word.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    "\u3005-\u3007\u3021-\u3029"  # Han: repetition marks, zero, numerals
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"  # Hiragana, Katakana
    "\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Bopomofo, Katakana of Ainu
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\uff66-\uff9f"  # Katakana of half width
    "\U0001b000-\U0001b16f\U00020000-\U000323af"  # older kana, rare Han
)
_CHARACTER = re.compile(f"[{_UNSPACED}]")
_WORD = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+")


def transitions(histories: Histories, num_items: int) -> SparseMatrix:
    """First-order Markov: how often j came right after i.

    Equal counts are ordered by popularity: each entry gets an extra share below 1 that grows with
    the popularity of j. An item that never followed i scores 0.
    """
    counts = _pairs_at(1, histories, num_items)
    popularity = count_items(histories, num_items)
    share = popularity / (popularity.max() + 1)
    shared = (counts.data + share[counts.indices]).astype(np.float32)
    return sparse.csr_array((shared, counts.indices, counts.indptr), shape=counts.shape)


def cooccurrences(
    histories: Histories, num_items: int, *, window: int = 50, backward: float = 0.5
) -> SparseMatrix:
    """The transition graph: pairs of items within `window` steps of one another.

    Each pair of items d steps apart adds 1 / d from the earlier to the later one, and
    `backward` / d the other way. An item adds nothing to itself.

    Args:
        histories: Item rows of each history, oldest first; at least one history.
        num_items: Size of the catalogue.
        window: The largest distance that counts, in steps.
        backward: The weight of the entry from the later to the earlier item.
    """
    forward: SparseMatrix = sparse.csr_array((num_items, num_items), dtype=np.float64)
    longest = max(len(history) for history in histories)
    for distance in range(1, min(window, longest - 1) + 1):
        pairs = _pairs_at(distance, histories, num_items)
        forward = sparse.csr_array(forward + pairs / distance)
    return _without_diagonal(forward + backward * forward.T.tocsr())


def pair_shares(*, window: int = 50, backward: float = 0.5) -> tuple[list[float], list[float]]:
    """The shares that two items of a history add to `cooccurrences`, by distance from 1 on.

    Returns:
        The shares of the entry from the earlier to the later item, and of the entry from the later
        to the earlier one. With these, counts from a user's own history can be subtracted again.
    """
    forward = [1 / distance for distance in range(1, window + 1)]
    return forward, [backward * share for share in forward]


def text_neighbours(texts: Sequence[str], *, num_neighbours: int = 50) -> SparseMatrix:
    """The cubed TF-IDF cosine of each item's nearest neighbours in text, itself excluded.

    Words may have one character, which distinguishes "Vitamin C" from "Vitamin D". In scripts
    without spaces between words, such as Chinese, Japanese and Thai, each character and each pair
    of neighbouring characters is a word. Items are processed in chunks, so that a matrix of
    items x items is never in memory.

    Args:
        texts: One text per item.
        num_neighbours: How many neighbours each item keeps.

    Raises:
        ValueError: If no text holds a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds

    try:
        vectorizer = TfidfVectorizer(dtype=np.float32, tokenizer=_words, token_pattern=None)
        vectors = sparse.csr_array(vectorizer.fit_transform(texts))
    except ValueError as error:
        raise ValueError(f"texts must hold words, got {len(texts)} without: {error}") from error
    num_items = len(texts)
    k = min(num_neighbours, num_items - 1)
    chunk = max(1, CHUNK_CELLS // num_items)
    rows, columns, values = [], [], []
    for start in range(0, num_items, chunk):
        cosines = np.asarray((vectors[start : start + chunk] @ vectors.T).todense())
        chunk_rows = np.arange(start, start + len(cosines))
        cosines[chunk_rows - start, chunk_rows] = -1.0  # an item is no neighbour of itself
        nearest = torch.from_numpy(cosines).topk(k, dim=1)
        rows.append(np.repeat(chunk_rows, k))
        columns.append(nearest.indices.numpy().ravel())
        values.append(nearest.values.numpy().ravel() ** 3)
    matrix = sparse.csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(num_items, num_items),
    )
    matrix.eliminate_zeros()
    return matrix


def _words(text: str) -> list[str]:
    """The words of a text; in scripts without spaces, characters and pairs of characters."""
    words: list[str] = []
    for word in _WORD.findall(text):
        if _CHARACTER.match(word):
            words += [*word, *(left + right for left, right in pairwise(word))]
        else:
            words.append(word)
    return words


def cosine_neighbours(
    histories: Histories, num_items: int, *, num_neighbours: int, shrinkage: float
) -> SparseMatrix:
    """item-kNN: the cosine of the sets of users that had each item, nearest neighbours only.

    A similarity is users(i and j) / (sqrt(users(i)) sqrt(users(j)) + shrinkage). The shrinkage
    lowers items that few users had. Items are processed in chunks, so that a matrix of
    items x items is never in memory.

    Args:
        histories: Item rows of each history.
        num_items: Size of the catalogue.
        num_neighbours: How many neighbours each item keeps; of equal ones, the first.
        shrinkage: A number of users, 0 or more.
    """
    owners, items = flatten(histories)
    had = sparse.csr_array(
        (np.ones(len(items), dtype=np.float32), (owners, items)), shape=(len(histories), num_items)
    )
    had.sum_duplicates()
    had.data[:] = 1.0
    by_item = had.T.tocsr()
    roots = np.sqrt(np.diff(by_item.indptr))
    chunk = max(1, CHUNK_CELLS // num_items)
    rows, columns, values = [], [], []
    for start in range(0, num_items, chunk):
        both = (by_item[start : start + chunk] @ had).tocoo()
        row = both.row + start
        keep = row != both.col
        row, column = row[keep], both.col[keep]
        value = both.data[keep] / (roots[row] * roots[column] + shrinkage)
        order = np.lexsort((column, -value, row))  # of equal values, the first item
        row = row[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        nearest = order[place < num_neighbours]
        rows.append(row[place < num_neighbours])
        columns.append(column[nearest])
        values.append(value[nearest].astype(np.float32))
    return sparse.csr_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(num_items, num_items),
    )


def _pairs_at(distance: int, histories: Histories, num_items: int) -> SparseMatrix:
    """How often j came exactly `distance` steps after i."""
    owners, items = flatten(histories)
    same = owners[:-distance] == owners[distance:]
    earlier, later = items[:-distance][same], items[distance:][same]
    counts = sparse.csr_array(
        (np.ones(len(earlier)), (earlier, later)), shape=(num_items, num_items)
    )
    counts.sum_duplicates()
    return counts


def _without_diagonal(matrix: SparseMatrix) -> SparseMatrix:
    entries = matrix.tocoo()
    off = entries.row != entries.col
    data = entries.data[off].astype(np.float32)
    return sparse.csr_array((data, (entries.row[off], entries.col[off])), shape=matrix.shape)
