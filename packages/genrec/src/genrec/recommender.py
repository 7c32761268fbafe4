"""A saved model that answers histories of item ids with item ids and scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from genrec.artifact import load_model
from genrec.decoding import beam_search
from genrec.seq2seq import Seq2Seq


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes:
        item_id: The item's id.
        score: Log-probability of the item as the model has it; for popular items the logarithm of
            the item's share in all interactions.
    """

    item_id: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one history is answered with.

    Attributes:
        items: Recommendations, best first.
        unknown: How many ids of the history the model does not know; they were skipped.
        popular: True where the history held no known item, so that `items` are merely the popular
            ones.
    """

    items: list[Recommendation]
    unknown: int
    popular: bool


class Recommender:
    """Answers histories of item ids, in batches, on the device that it was loaded to.

    Args:
        model: The model; put into eval mode.
        item_ids: Id of each item row.
        popularity: How often each item was had. With it, a history without any known item is
            answered with the items had most; without it, by the model, from nothing.
    """

    def __init__(
        self,
        model: Seq2Seq,
        item_ids: Sequence[str],
        *,
        popularity: Int[Tensor, " items"] | None = None,
    ) -> None:
        if len(item_ids) != model.trie.num_items:
            raise ValueError(
                f"item_ids must be one id for each of {model.trie.num_items} items, "
                f"got {len(item_ids)}"
            )
        self.model = model.eval()
        self.item_ids = list(item_ids)
        self.rows = {item_id: row for row, item_id in enumerate(item_ids)}
        self._tables = model.tables()
        self._popular: list[Recommendation] | None = None
        if popularity is not None:
            total = int(popularity.sum())
            order = popularity.argsort(descending=True, stable=True)[: int((popularity > 0).sum())]
            self._popular = [
                Recommendation(self.item_ids[row], math.log(int(popularity[row]) / total))
                for row in order.tolist()
            ]

    @classmethod
    def load(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Recommender:
        """Loads a model folder.

        Raises:
            ArtifactError: The folder cannot be used.
        """
        saved = load_model(folder)
        return cls(saved.model.to(device), saved.item_ids, popularity=saved.popularity)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        top_k: int = 10,
        num_beams: int = 100,
        exclude_seen: bool = False,
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> list[Answer]:
        """Answers several histories.

        Args:
            histories: Item ids, oldest first.
            top_k: Items an answer, at most `num_beams`.
            num_beams: Prefixes that the search keeps.
            exclude_seen: Whether items of the history are left out of its answer.
            unknown: Whether ids that the model does not know are skipped and counted, or refused.
            batch_size: Histories decoded together.

        Returns:
            One answer a history, in order; shorter than `top_k` only where the catalogue is.

        Raises:
            ValueError: An id is unknown and `unknown` is "error", or a number is out of range.
        """
        return list(
            self.stream(
                histories,
                top_k=top_k,
                num_beams=num_beams,
                exclude_seen=exclude_seen,
                unknown=unknown,
                batch_size=batch_size,
            )
        )

    def stream(
        self,
        histories: Iterable[Sequence[str]],
        *,
        top_k: int = 10,
        num_beams: int = 100,
        exclude_seen: bool = False,
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> Iterator[Answer]:
        """Answers histories as they come, a batch at a time; arguments as for `recommend`."""
        if unknown not in ("skip", "error"):
            raise ValueError(f'unknown must be "skip" or "error", got {unknown!r}')
        if top_k < 1 or num_beams < top_k:
            raise ValueError(
                f"top_k must be at least 1 and at most num_beams, got {top_k} and {num_beams}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        return self._stream(iter(histories), top_k, num_beams, exclude_seen, unknown, batch_size)

    def _stream(
        self,
        histories: Iterator[Sequence[str]],
        top_k: int,
        num_beams: int,
        exclude_seen: bool,
        unknown: str,
        batch_size: int,
    ) -> Iterator[Answer]:
        first = 0
        while batch := list(islice(histories, batch_size)):
            known = [self._known(ids, first + i, unknown) for i, ids in enumerate(batch)]
            asked = [rows for rows in known if rows or self._popular is None]
            found = iter(self._search(asked, top_k, num_beams, exclude_seen) if asked else [])
            for ids, rows in zip(batch, known, strict=True):
                popular = not rows and self._popular is not None
                items = (self._popular or [])[:top_k] if popular else next(found)
                yield Answer(items=items, unknown=len(ids) - len(rows), popular=popular)
            first += len(batch)

    def _known(self, ids: Sequence[str], number: int, unknown: str) -> list[int]:
        """Returns the rows of the ids that are known."""
        if isinstance(ids, str):
            raise TypeError(f"histories must be sequences of ids, got the string {ids!r}")
        if unknown == "error":
            for item_id in ids:
                if item_id not in self.rows:
                    raise ValueError(f"history {number} must hold known ids only, got {item_id!r}")
        return [self.rows[item_id] for item_id in ids if item_id in self.rows]

    def _search(
        self, histories: list[list[int]], top_k: int, num_beams: int, exclude_seen: bool
    ) -> list[list[Recommendation]]:
        newest = [rows[-self.model.config.history_length :] for rows in histories]
        ranked = beam_search(
            self.model,
            self.model.trie,
            self._padded(newest),
            num_beams=num_beams,
            top_k=top_k,
            exclude=self._padded(histories) if exclude_seen else None,
            tables=self._tables,
        )
        return [
            [
                Recommendation(self.item_ids[row], score)
                for row, score in zip(rows, scores, strict=True)
                if row >= 0
            ]
            for rows, scores in zip(ranked.items.tolist(), ranked.scores.tolist(), strict=True)
        ]

    def _padded(self, histories: list[list[int]]) -> Int[Tensor, "batch length"]:
        num_items, length = self.model.trie.num_items, max(map(len, histories))
        rows = [history + [num_items] * (length - len(history)) for history in histories]
        return torch.tensor(rows, dtype=torch.long, device=self._tables.head.device)
