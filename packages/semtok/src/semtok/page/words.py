"""The words that name a cluster: words of its items that sibling clusters do not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import csr_array

from semtok.markup import well_formed
from semtok.scripts import UNSPACED

WORDS = 3
"""How many words name a cluster."""

_RUN = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]{{2,}}")
_UNSPACED = re.compile(f"[{UNSPACED}]")
_BETWEEN = " \N{MIDDLE DOT} "
_BEFORE_OTHERS = 1e6  # above any score
_LEAST = 1e-9


def typical_words(
    texts: Sequence[str | None], starts: Sequence[Int64[np.ndarray, " _"]]
) -> list[list[str]]:
    """Up to three words for each group of items, level by level.

    A word is scored by p log(p / q), where p is the share of a group's items that have it, and q
    the share in the group's parent. At least two items must have it. If fewer than three words
    distinguish a group from its siblings, the next ones distinguish it from all items, by the same
    formula.

    Args:
        texts: One per item, items in the order of their codes.
        starts: For each level, the first item of each group, in ascending order; the groups of a
            level are parts of those of the level before.

    Returns:
        The words of each group, joined by " \N{MIDDLE DOT} "; "" where there are none.
    """
    vocabulary, has = _incidence(texts)
    whole = above = _Groups.of(has, np.zeros(1, dtype=np.int64))
    named = []
    for level_starts in starts:
        groups = _Groups.of(has, level_starts)
        against_siblings = groups.scores(above)
        against_all = groups.scores(whole)
        order = np.where(against_siblings > 0, _BEFORE_OTHERS + against_siblings, against_all)
        named.append(groups.best(np.where(groups.counts >= 2, order, 0), vocabulary))
        above = groups
    return named


def words_of(text: str) -> Iterator[str]:
    """Letters and digits in a row; pairs of characters where a script puts no spaces between."""
    for match in _RUN.finditer(text.lower()):
        run = match[0]
        if len(run) < 3 or not _UNSPACED.match(run):
            yield run
        else:
            yield from (run[start : start + 2] for start in range(len(run) - 1))


@dataclass(frozen=True, kw_only=True)
class _Groups:
    """How many items of each group have each word, one entry for each pair of group and word.

    Attributes:
        starts: The first item of each group.
        sizes: The number of items of each group.
        group: The group of each entry, ascending.
        word: The word of each entry, ascending within a group.
        counts: How many items of the group have the word.
        num_words: The size of the vocabulary.
    """

    starts: Int64[np.ndarray, " groups"]
    sizes: Int64[np.ndarray, " groups"]
    group: Int64[np.ndarray, " entries"]
    word: Int64[np.ndarray, " entries"]
    counts: Float[np.ndarray, " entries"]
    num_words: int

    @classmethod
    def of(cls, has: csr_array, starts: Int64[np.ndarray, " groups"]) -> _Groups:
        num_items, num_words = has.shape
        sizes = np.diff(starts, append=num_items)
        group = np.repeat(np.arange(len(starts)), sizes)  # [items]
        member = (np.ones(num_items), (group, np.arange(num_items)))
        counts = csr_array(csr_array(member, shape=(len(starts), num_items)) @ has)
        counts.sort_indices()
        return cls(
            starts=starts,
            sizes=sizes,
            group=np.repeat(np.arange(len(starts)), np.diff(counts.indptr)),
            word=counts.indices.astype(np.int64),
            counts=counts.data,
            num_words=num_words,
        )

    def scores(self, above: _Groups) -> Float[np.ndarray, " entries"]:
        """P log(p / q) of each entry, where q is the share in the parent, a group of `above`."""
        parent = np.searchsorted(above.starts, self.starts, side="right") - 1  # [groups]
        keys = above.group * self.num_words + above.word  # ascending
        entry = np.searchsorted(keys, parent[self.group] * self.num_words + self.word)
        share = self.counts / self.sizes[self.group]
        whole = above.counts[entry] / above.sizes[parent[self.group]]
        scores: Float[np.ndarray, " entries"] = share * np.log(share / whole)
        return np.where(scores > _LEAST, scores, 0)

    def best(self, scores: Float[np.ndarray, " entries"], vocabulary: Sequence[str]) -> list[str]:
        """The words with the highest scores in each group; ties are in alphabetical order."""
        order = np.lexsort((self.word, -scores, self.group))
        order = order[scores[order] > 0]
        group = self.group[order]
        rank = np.arange(len(order)) - np.searchsorted(group, group)
        picked: list[list[str]] = [[] for _ in self.starts]
        for entry in order[rank < WORDS]:
            picked[self.group[entry]].append(vocabulary[self.word[entry]])
        return [_BETWEEN.join(words) for words in picked]


def _incidence(texts: Sequence[str | None]) -> tuple[list[str], csr_array]:
    """The words, in alphabetical order, and which item has which word, [items, words]."""
    columns: dict[str, int] = {}
    indices: list[int] = []
    ends = [0]
    for item_text in texts:
        words = set(words_of(well_formed(item_text or "")))
        indices += [columns.setdefault(word, len(columns)) for word in words]
        ends.append(len(indices))
    vocabulary = sorted(columns)
    place = np.empty(len(columns), dtype=np.int64)
    place[[columns[word] for word in vocabulary]] = np.arange(len(vocabulary))
    shape = (len(texts), len(vocabulary))
    placed = place[np.array(indices, dtype=np.int64)]
    return vocabulary, csr_array((np.ones(len(placed)), placed, np.array(ends)), shape=shape)
