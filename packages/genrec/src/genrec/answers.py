"""The way from requests to answers, the same for all recommenders.

Whatever the model, ids become rows, histories are cut and padded, requests with allow-lists of
their own go together, and a history without any known item gets the popular ones, if there are any.
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
    """What all recommenders have in common: a catalogue of ids, and answers to requests.

    What is a recommender's own is `rank`.

    Args:
        item_ids: Id of each item row, no two alike.
        num_items: Items that the model knows.
        history_length: Most items of a history that the model reads.
        device: Where the model is.
        popularity: How often each item was had. With it, a history without any known item is
            answered with the items had most, none that was never had; without it, or where none of
            the items that may be returned was ever had, by the model, from nothing.

    Attributes:
        most_popular: Rows of the items that were ever had, those had most first; none where
            nobody said how often they were had.
        num_beams: Prefixes that the search keeps; None where no beams are searched.
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
            exclude: Each history's items to leave out, padded likewise; None for none.
            allowed: Each history's items that alone may be returned, padded likewise, or one mark
                an item that holds for all; None for all items.
            top_k: How many.
        """

    def with_beams(self, num_beams: int) -> Answers:
        """Returns the same recommender with another number of beams; they share the model.

        Args:
            num_beams: Prefixes that the search keeps.

        Raises:
            ValueError: It is below 1, or no beams are searched.
        """
        if self.num_beams is None:
            raise ValueError("num_beams must be left out: this ranking searches no beams")
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
        """Answers several histories.

        Args:
            histories: Item ids, oldest first; or requests, with lists of their own.
            top_k: Items an answer.
            exclude_seen: Whether items of the history are left out of its answer.
            allow: Ids of the items that alone may be returned to anybody, as those in stock; None
                for all. Ids that the model does not know, here and in `deny`, change nothing.
            deny: Ids of items that must not be returned to anybody.
            unknown: Whether ids of a history that the model does not know are skipped and counted,
                or refused.
            batch_size: Histories ranked together.

        Returns:
            One answer a history, in order; shorter than `top_k` only where fewer items may be
            returned, or, for a history without any known item, fewer of them were ever had.

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
        """Answers histories as they come, a batch at a time; arguments as for `recommend`."""
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
        """What may be returned to each of a batch, one mark an item; None where all may.

        Args:
            count: Requests of the batch.
            exclude: Their items to leave out, padded with the number of items; None for none.
            allowed: One mark an item that holds for all of them, or their items that alone may be
                returned, padded likewise; None for all.
        """
        if exclude is None and allowed is None:
            return None
        # A column too many, cut off in the end, takes what is written at the padding.
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
        """Returns one mark an item, True where anybody may be given it; None where all may."""
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
            # Popular items answer what has no history; what is left goes to the model together.
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
        """Returns a request in rows; `number` names it where it is refused."""
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
        """Returns the rows of the ids that are known; a string is no list of letters."""
        if isinstance(ids, str):
            raise TypeError(
                f"histories, allow and deny must be lists of ids, got the string {ids!r}"
            )
        return [self.rows[item_id] for item_id in ids if item_id in self.rows]


@dataclass(frozen=True)
class _Search:
    """How all histories of a call are searched."""

    catalogue: Answers
    top_k: int
    exclude_seen: bool
    marks: Bool[Tensor, " items"] | None

    def __call__(self, requests: list[RowRequest]) -> Iterator[list[Recommendation]]:
        """Returns the items for each request; those with allow-lists of their own go together."""
        answers: list[list[Recommendation]] = [[]] * len(requests)
        for with_lists in (False, True):
            numbers = [i for i, r in enumerate(requests) if (r.allow is not None) == with_lists]
            if numbers:
                batch = [requests[number] for number in numbers]
                for number, items in zip(numbers, self._rank(batch, with_lists), strict=True):
                    answers[number] = items
        return iter(answers)

    def popular(self, request: RowRequest) -> list[Recommendation]:
        """Returns the items had most, of those that may be returned and were ever had."""
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
        """Returns what the model ranks first for each request; all or none have allow-lists."""
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
        """Returns a table of at least one column, since models read one or more."""
        num_items, length = len(self.catalogue.item_ids), max(1, *map(len, lists))
        rows = [rows + [num_items] * (length - len(rows)) for rows in lists]
        return torch.tensor(rows, dtype=torch.long, device=self.catalogue.device)
