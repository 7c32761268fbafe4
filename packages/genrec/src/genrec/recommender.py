"""A saved model that answers histories of item ids with item ids and scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from genrec.artifact import load_model
from genrec.catalogue import with_catalogue
from genrec.decoding import beam_search
from genrec.seq2seq import Seq2Seq
from genrec.trie import Trie


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
class Request:
    """A history with wishes of its own.

    Attributes:
        history: Item ids, oldest first.
        allow: Ids of the items that alone may be returned; None for all.
        deny: Ids of items that must not be returned.
    """

    history: Sequence[str]
    allow: Collection[str] | None = None
    deny: Collection[str] = ()


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
        self._popularity = popularity
        if popularity is not None:
            order = popularity.argsort(descending=True, stable=True)
            self._popular = order[: int((popularity > 0).sum())]

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        codes: Int[Tensor, "items levels"] | None = None,
    ) -> Recommender:
        """Loads a model folder.

        Args:
            folder: What `save_model` wrote.
            device: Where the model goes.
            codes: The catalogue's codes, to make sure that the model is one of theirs.

        Raises:
            ArtifactError: The folder cannot be used, or is of another catalogue.
        """
        saved = load_model(folder, codes=codes)
        return cls(saved.model.to(device), saved.item_ids, popularity=saved.popularity)

    def with_catalogue(
        self,
        codes: Int[Tensor, "items levels"],
        item_ids: Sequence[str],
        *,
        popularity: Int[Tensor, " items"] | None = None,
        item_vectors: Float[Tensor, "items vector_dim"] | None = None,
    ) -> Recommender:
        """Returns a recommender of another catalogue by the same model, without any training.

        Items are told by their ids; those added are recommended, and read in histories, by their
        codes. This recommender stays as it is and can answer until the new one takes its place;
        they share the weights. What a model cannot do with new items is said at `with_catalogue`.

        Args:
            codes: Codes of the new catalogue's items, from the tokenizer that made the old ones.
            item_ids: Id of each row.
            popularity: How often each item was had.
            item_vectors: One vector an item, where new items need theirs.

        Raises:
            ValueError: The codebooks differ, or the model knows nothing of some new items.
        """
        trie = Trie.build(codes.to(self._device), self.model.trie.codebook_sizes)
        rows = [self.rows.get(item_id, -1) for item_id in item_ids]
        old_rows = torch.tensor(rows, dtype=torch.long, device=self._device)
        model = with_catalogue(self.model, trie, old_rows, item_vectors=item_vectors)
        return Recommender(model, item_ids, popularity=popularity)

    def recommend(
        self,
        histories: Sequence[Sequence[str] | Request],
        *,
        top_k: int = 10,
        num_beams: int = 100,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
        unknown: Literal["skip", "error"] = "skip",
        batch_size: int = 64,
    ) -> list[Answer]:
        """Answers several histories.

        Args:
            histories: Item ids, oldest first; or requests, with lists of their own.
            top_k: Items an answer, at most `num_beams`.
            num_beams: Prefixes that the search keeps.
            exclude_seen: Whether items of the history are left out of its answer.
            allow: Ids of the items that alone may be returned to anybody, as those in stock; None
                for all. Ids that the model does not know, here and in `deny`, change nothing.
            deny: Ids of items that must not be returned to anybody.
            unknown: Whether ids of a history that the model does not know are skipped and counted,
                or refused.
            batch_size: Histories decoded together.

        Returns:
            One answer a history, in order; shorter than `top_k` only where fewer items may be
            returned.

        Raises:
            ValueError: An id is unknown and `unknown` is "error", or a number is out of range.
        """
        return list(
            self.stream(
                histories,
                top_k=top_k,
                num_beams=num_beams,
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
        num_beams: int = 100,
        exclude_seen: bool = False,
        allow: Collection[str] | None = None,
        deny: Collection[str] = (),
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
        search = _Search(self, top_k, num_beams, exclude_seen, self._marks(allow, deny))
        return self._stream(iter(histories), search, unknown, batch_size)

    @property
    def _device(self) -> torch.device:
        return self._tables.head.device

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
        return marks.to(self._device)

    def _stream(
        self,
        histories: Iterator[Sequence[str] | Request],
        search: _Search,
        unknown: str,
        batch_size: int,
    ) -> Iterator[Answer]:
        first = 0
        while batch := list(islice(histories, batch_size)):
            asked = [
                self._asked(request, first + number, unknown)
                for number, request in enumerate(batch)
            ]
            popular = [not one.history and self._popularity is not None for one in asked]
            found = search(
                [one for one, is_popular in zip(asked, popular, strict=True) if not is_popular]
            )
            for one, is_popular in zip(asked, popular, strict=True):
                items = search.popular(one) if is_popular else next(found)
                yield Answer(items=items, unknown=one.unknown, popular=is_popular)
            first += len(batch)

    def _asked(self, request: Sequence[str] | Request, number: int, unknown: str) -> _Asked:
        """Returns a request in rows, without the ids that are not known."""
        if not isinstance(request, Request):
            request = Request(history=request)
        for ids in (request.history, request.allow, request.deny):
            if isinstance(ids, str):
                raise TypeError(f"histories must be sequences of ids, got the string {ids!r}")
        if unknown == "error":
            for item_id in request.history:
                if item_id not in self.rows:
                    raise ValueError(f"history {number} must hold known ids only, got {item_id!r}")
        history = self._known(request.history)
        allow = None if request.allow is None else self._known(request.allow)
        deny = self._known(request.deny)
        return _Asked(history, allow, deny, len(request.history) - len(history))

    def _known(self, ids: Collection[str]) -> list[int]:
        """Returns the rows of the ids that are known."""
        return [self.rows[item_id] for item_id in ids if item_id in self.rows]


class _Asked(NamedTuple):
    """A request in item rows."""

    history: list[int]
    allow: list[int] | None
    deny: list[int]
    unknown: int


@dataclass(frozen=True)
class _Search:
    """How all histories of a call are searched."""

    recommender: Recommender
    top_k: int
    num_beams: int
    exclude_seen: bool
    marks: Bool[Tensor, " items"] | None

    def __call__(self, asked: list[_Asked]) -> Iterator[list[Recommendation]]:
        """Returns the items for each request; those with allow-lists of their own go together."""
        answers: list[list[Recommendation]] = [[]] * len(asked)
        for own in (False, True):
            numbers = [i for i, one in enumerate(asked) if (one.allow is not None) == own]
            if numbers:
                found = self._found([asked[number] for number in numbers], own)
                for number, items in zip(numbers, found, strict=True):
                    answers[number] = items
        return iter(answers)

    def popular(self, one: _Asked) -> list[Recommendation]:
        """Returns the items had most, of those that may be returned."""
        popularity, ids = self.recommender._popularity, self.recommender.item_ids
        assert popularity is not None
        total = int(popularity.sum())
        denied = set(one.deny)
        rows = (int(row) for row in self.recommender._popular)
        allowed = (
            row
            for row in rows
            if row not in denied
            and (one.allow is None or row in one.allow)
            and (self.marks is None or bool(self.marks[row]))
        )
        return [
            Recommendation(ids[row], math.log(int(popularity[row]) / total))
            for row in islice(allowed, self.top_k)
        ]

    def _found(self, asked: list[_Asked], own: bool) -> Iterator[list[Recommendation]]:
        model = self.recommender.model
        newest = [one.history[-model.config.history_length :] for one in asked]
        exclude = [one.deny + one.history * self.exclude_seen for one in asked]
        allow: Tensor | None = self.marks
        if own:
            lists = [one.allow or [] for one in asked]
            if self.marks is not None:
                allowed = self.marks.tolist()
                lists = [[row for row in rows if allowed[row]] for rows in lists]
            allow = self._padded(lists)
        ranked = beam_search(
            model,
            model.trie,
            self._padded(newest),
            num_beams=self.num_beams,
            top_k=self.top_k,
            exclude=self._padded(exclude) if any(exclude) else None,
            allow=allow,
            tables=self.recommender._tables,
        )
        ids = self.recommender.item_ids
        for rows, scores in zip(ranked.items.tolist(), ranked.scores.tolist(), strict=True):
            pairs = zip(rows, scores, strict=True)
            yield [Recommendation(ids[row], score) for row, score in pairs if row >= 0]

    def _padded(self, lists: list[list[int]]) -> Int[Tensor, "batch length"]:
        num_items, length = self.recommender.model.trie.num_items, max(map(len, lists))
        rows = [rows + [num_items] * (length - len(rows)) for rows in lists]
        return torch.tensor(rows, dtype=torch.long, device=self.recommender._device)
