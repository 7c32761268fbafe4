"""From requests to answers, in the same way for all recommenders.

For any model, ids become rows, and histories are cut and padded. Requests with their own allow-list
form one batch. A history without any known item gets popular items, if there are any.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from genrec.decoding import Ranked
from genrec.item_checks import check_item_ids, check_popularity
from genrec.requests import Answer, Recommendation, Request, RowRequest


class Answers(ABC):
    """The base class of all recommenders: a catalogue of ids, and answers to requests.

    A subclass defines `rank`.

    Args:
        item_ids: Id of each item row, all different.
        num_items: Number of items that the model knows.
        history_length: How many of the newest items of a history the model reads.
        device: Device of the model.
        popularity: Number of interactions of each item. With it, a history without any known item
            gets the most popular items, each with at least one interaction. Without it, or if no
            such item may be returned, the model recommends from an empty history.

    Attributes:
        most_popular: Rows of the items with at least one interaction, most popular first; empty if
            `popularity` is None.
        num_beams: Prefixes that the search keeps; None if there is no beam search.

    Raises:
        TypeError: An id is no string.
        ValueError: The ids or the popularity do not fit the model.
    """

    num_beams: int | None = None

    def __init__(
        self,
        item_ids: Sequence[str],
        *,
        num_items: int,
        history_length: int,
        device: torch.device,
        popularity: Int[Tensor, " items"] | None,
    ) -> None:
        check_item_ids(item_ids, num_items)
        self.item_ids = list(item_ids)
        self.rows = {item_id: row for row, item_id in enumerate(item_ids)}
        self.popularity = popularity
        self.history_length = history_length
        self.device = device
        self.most_popular: list[int] = []
        if popularity is not None:
            check_popularity(popularity, num_items)
            order = popularity.argsort(descending=True, stable=True)
            self.most_popular = order[: int((popularity > 0).sum())].tolist()

    @abstractmethod
    def rank(
        self,
        history: Int[Tensor, "batch length"],
        exclude: Int[Tensor, "batch m"] | None,
        allowed: Int[Tensor, "batch n"] | Bool[Tensor, " items"] | None,
        top_k: int,
    ) -> Ranked:
        """Returns each history's best items.

        Args:
            history: Item rows, oldest first, padded with the number of items.
            exclude: For each history the items to leave out, padded in the same way, or None.
            allowed: For each history the only items that may be returned, padded in the same way;
                or one truth value per item for all histories; None allows all items.
            top_k: How many items.
        """

    def with_beams(self, num_beams: int) -> Answers:
        """Returns the same recommender with another number of beams; they share the model.

        Args:
            num_beams: Prefixes that the search keeps.

        Raises:
            ValueError: `num_beams` is below 1, or this recommender has no beam search.
        """
        if self.num_beams is None:
            raise ValueError("num_beams must be left out: this ranking has no beam search")
        if num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, got {num_beams}")
        changed = copy.copy(self)
        changed.num_beams = num_beams
        return changed

    def recommend(
        self,
        histories: Iterable[Sequence[str] | Request],
        *,
        top_k: int = 10,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> list[Answer]:
        """Recommends items for several histories.

        Args:
            histories: Item ids, oldest first; or requests, which have their own lists.
            top_k: Items per answer.
            exclude_seen: Whether items of the history are left out of its answer.
            allow: Only items with these ids may be returned, such as those in stock; None allows
                all. Unknown ids in `allow` and `deny` are ignored.
            deny: Items with these ids must not be returned.
            unknown: "skip" skips and counts unknown ids of a history; "error" raises an error.
            batch_size: Number of histories that are ranked together.

        Returns:
            One answer per history, in order. It has fewer than `top_k` items only if fewer may be
            returned or, for a history without any known item, fewer have any interaction.

        Raises:
            ValueError: An id is unknown and `unknown` is "error", or a number is out of range.
            TypeError: A list of ids is a string.
        """
        return list(
            self.stream(
                histories,
                top_k=top_k,
                exclude_seen=exclude_seen,
                allow=allow,
                deny=deny,
                unknown=unknown,
                batch_size=batch_size,
            )
        )

    def stream(
        self,
        histories: Iterable[Sequence[str] | Request],
        *,
        top_k: int = 10,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> Iterator[Answer]:
        """Recommends batch by batch, while histories arrive; arguments as in `recommend`.

        Raises:
            ValueError: A number or `unknown` is out of range, or an unknown id is an error.
            TypeError: A list of ids is a string.
        """
        if unknown not in ("skip", "error"):
            raise ValueError(f'unknown must be "skip" or "error", got {unknown!r}')
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        search = _Search(self, top_k, exclude_seen, self._marks(allow, deny))
        return self._stream(iter(histories), search, unknown, batch_size)

    def permitted(
        self, count: int, exclude: Tensor | None, allowed: Tensor | None
    ) -> Bool[Tensor, "count items"] | None:
        """Marks which items may be returned for each request of a batch; None if all may.

        Args:
            count: Number of requests in the batch.
            exclude: For each request the items to leave out, padded with the number of items.
            allowed: One truth value per item for all requests; or for each request the only items
                that may be returned, padded in the same way; None allows all.
        """
        if exclude is None and allowed is None:
            return None
        # An extra column takes the writes at the padding; it is cut off at the end.
        marks = torch.ones(count, len(self.item_ids) + 1, dtype=torch.bool, device=self.device)
        if allowed is not None and allowed.ndim == 1:
            marks[:, :-1] = allowed
        elif allowed is not None:
            marks = torch.zeros_like(marks).scatter_(1, allowed, True)
        if exclude is not None:
            marks.scatter_(1, exclude, False)
        return marks[:, :-1]

    def _marks(
        self, allow: Collection[str] | None, deny: Collection[str]
    ) -> Bool[Tensor, " items"] | None:
        """Returns one truth value per item, True if it may be returned; None if all may."""
        if allow is None and not deny:
            return None
        marks = torch.full((len(self.item_ids),), allow is None)
        if allow is not None:
            marks[self._known(allow)] = True
        marks[self._known(deny)] = False
        return marks.to(self.device)

    def _stream(
        self,
        histories: Iterator[Sequence[str] | Request],
        search: _Search,
        unknown: str,
        batch_size: int,
    ) -> Iterator[Answer]:
        first = 0
        while batch := list(islice(histories, batch_size)):
            requests = [
                self._row_request(request, first + number, unknown)
                for number, request in enumerate(batch)
            ]
            # Requests without known items get popular items; the model ranks for all others.
            popular = [[] if request.history else search.popular(request) for request in requests]
            ranked = search(
                [request for request, items in zip(requests, popular, strict=True) if not items]
            )
            for request, items in zip(requests, popular, strict=True):
                yield Answer(
                    items=items or next(ranked), unknown=request.unknown, popular=bool(items)
                )
            first += len(batch)

    def _row_request(
        self, request: Sequence[str] | Request, number: int, unknown: str
    ) -> RowRequest:
        """Returns a request in item rows; `number` is for the error message."""
        if not isinstance(request, Request):
            request = Request(history=request)
        history = self._known(request.history)
        if unknown == "error":
            for item_id in request.history:
                if item_id not in self.rows:
                    raise ValueError(f"history {number} must hold known ids only, got {item_id!r}")
        allow = None if request.allow is None else self._known(request.allow)
        deny = self._known(request.deny)
        return RowRequest(history, allow, deny, len(request.history) - len(history))

    def _known(self, ids: Collection[str]) -> list[int]:
        """Returns the rows of the known ids.

        Raises:
            TypeError: `ids` is a string, which is not a list of ids.
        """
        if isinstance(ids, str):
            raise TypeError(
                f"histories, allow and deny must be lists of ids, got the string {ids!r}"
            )
        return [self.rows[item_id] for item_id in ids if item_id in self.rows]


@dataclass(frozen=True)
class _Search:
    """The settings of a call, which are the same for all its histories."""

    catalogue: Answers
    top_k: int
    exclude_seen: bool
    marks: Bool[Tensor, " items"] | None

    def __call__(self, requests: list[RowRequest]) -> Iterator[list[Recommendation]]:
        """Returns the items for each request; requests with an allow-list are one batch."""
        answers: list[list[Recommendation]] = [[]] * len(requests)
        for with_lists in (False, True):
            numbers = [i for i, r in enumerate(requests) if (r.allow is not None) == with_lists]
            if numbers:
                batch = [requests[number] for number in numbers]
                for number, items in zip(numbers, self._rank(batch, with_lists), strict=True):
                    answers[number] = items
        return iter(answers)

    def popular(self, request: RowRequest) -> list[Recommendation]:
        """Returns the most popular items that may be returned, each with an interaction."""
        popularity, ids = self.catalogue.popularity, self.catalogue.item_ids
        if popularity is None:
            return []
        total = int(popularity.sum())
        denied = set(request.deny)
        wanted = None if request.allow is None else set(request.allow)
        allowed = (
            row
            for row in self.catalogue.most_popular
            if row not in denied
            and (wanted is None or row in wanted)
            and (self.marks is None or bool(self.marks[row]))
        )
        return [
            Recommendation(ids[row], math.log(int(popularity[row]) / total))
            for row in islice(allowed, self.top_k)
        ]

    def _rank(self, requests: list[RowRequest], with_lists: bool) -> Iterator[list[Recommendation]]:
        """Returns the model's best items for each request; all or none have allow-lists."""
        newest = [request.history[-self.catalogue.history_length :] for request in requests]
        exclude = [request.deny + request.history * self.exclude_seen for request in requests]
        allow: Tensor | None = self.marks
        if with_lists:
            lists = [request.allow or [] for request in requests]
            if self.marks is not None:
                allowed = self.marks.tolist()
                lists = [[row for row in rows if allowed[row]] for rows in lists]
            allow = self._padded(lists)
        ranked = self.catalogue.rank(
            self._padded(newest),
            self._padded(exclude) if any(exclude) else None,
            allow,
            self.top_k,
        )
        ids = self.catalogue.item_ids
        for rows, scores in zip(ranked.items.tolist(), ranked.scores.tolist(), strict=True):
            pairs = zip(rows, scores, strict=True)
            yield [Recommendation(ids[row], score) for row, score in pairs if row >= 0]

    def _padded(self, lists: list[list[int]]) -> Int[Tensor, "batch length"]:
        """Returns the lists as a padded table; it has at least one column, as models require."""
        num_items, length = len(self.catalogue.item_ids), max(1, *map(len, lists))
        rows = [rows + [num_items] * (length - len(rows)) for rows in lists]
        return torch.tensor(rows, dtype=torch.long, device=self.catalogue.device)
