"""Explains the ranks of items after a history, and why other items are excluded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from genrec import Answer, Answers, Request

from semrec.shared.answering import AnswersByMode
from semrec.shared.reasons import Query, Reasons, Step, reasons_of

Struck = Literal["seen", "denied", "not_allowed", "never_had", "not_generated"]
"""Why an item is not ranked: it is in the history and seen items are left out; it was denied; it is
not among the allowed items; the popular items answer and nobody ever had it; or generation did not
reach it."""


@dataclass(frozen=True, kw_only=True)
class ItemReasons:
    """The rank of an item and the reasons for it.

    Attributes:
        item_id: The item's id.
        rank: Its rank, from 1; None if it is not ranked.
        score: Its score in the ranking; None if it is not ranked.
        struck: Why it is not ranked; None if it is ranked.
        path: The steps of its codes; None if the ranking generates no codes.
        parts: The terms of its score, by name; None if the score is not a sum.
        free_rank: Its rank if nothing were excluded; None if it was not computed.
    """

    item_id: str
    rank: int | None
    score: float | None
    struck: Struck | None
    path: list[Step] | None
    parts: dict[str, float] | None
    free_rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The explained answer to a history.

    Attributes:
        items: The items that were asked for, or the first items of the answer.
        left_out: Items that would be in the answer if nothing were excluded.
        popular: Whether no item of the history is known, so that the popular items answer.
    """

    items: list[ItemReasons]
    left_out: list[ItemReasons]
    popular: bool


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request to a recommender that is to be explained.

    Attributes:
        request: The history and the allowed items; unknown ids have no effect.
        top_k: The number of items in the answer.
        exclude_seen: Whether items of the history are left out.
    """

    request: Request
    top_k: int
    exclude_seen: bool

    @property
    def strikes(self) -> bool:
        """Whether any item is excluded."""
        return self.exclude_seen or bool(self.request.deny) or self.request.allow is not None

    def struck(self, item_ids: Iterable[str]) -> dict[str, Struck]:
        """The excluded ones of the items, and why."""
        seen = set(self.request.history) if self.exclude_seen else set()
        denied = set(self.request.deny)
        allowed = None if self.request.allow is None else set(self.request.allow)
        reasons: dict[str, Struck] = {}
        for item_id in item_ids:
            if item_id in seen:
                reasons[item_id] = "seen"
            elif item_id in denied:
                reasons[item_id] = "denied"
            elif allowed is not None and item_id not in allowed:
                reasons[item_id] = "not_allowed"
        return reasons

    def query(self, recommender: Answers) -> Query:
        """The question in item rows of a recommender."""

        def known(item_ids: Iterable[str]) -> list[int]:
            return [
                recommender.rows[item_id] for item_id in item_ids if item_id in recommender.rows
            ]

        history = known(self.request.history)
        return Query(
            history=history[-recommender.history_length :],
            exclude=known(self.request.deny) + history * self.exclude_seen,
            allow=None if self.request.allow is None else known(self.request.allow),
            top_k=self.top_k,
        )


def explain(
    recommender: Answers, question: Question, item_ids: Sequence[str] | None
) -> Explanation:
    """Explains the ranks of items after a history.

    Args:
        recommender: The recommender that ranks.
        question: The history and its options.
        item_ids: Known ids; None for the first items of the answer.
    """
    if isinstance(recommender, AnswersByMode):
        recommender = recommender.of_mode(question.exclude_seen)
    (answer,) = recommender.recommend(
        [question.request], top_k=question.top_k, exclude_seen=question.exclude_seen
    )
    if item_ids is None:
        item_ids = [item.item_id for item in answer.items]
    free_ranks: dict[str, int] = {}
    if question.strikes:
        (free,) = recommender.recommend([question.request.history], top_k=question.top_k)
        free_ranks = {item.item_id: rank for rank, item in enumerate(free.items, start=1)}
    left_out = list(question.struck(free_ranks))
    explained = _explained(recommender, question, [*item_ids, *left_out], free_ranks, answer)
    return Explanation(
        items=explained[: len(item_ids)],
        left_out=explained[len(item_ids) :],
        popular=answer.popular,
    )


def _explained(
    recommender: Answers,
    question: Question,
    item_ids: Sequence[str],
    free_ranks: Mapping[str, int],
    answer: Answer,
) -> list[ItemReasons]:
    """The reasons of each item; `answer` is the answer to the question."""
    rows = torch.tensor([recommender.rows[item_id] for item_id in item_ids], dtype=torch.long)
    reasons: Reasons | None = None
    if not answer.popular:
        reasons = reasons_of(recommender, question.query(recommender), rows.to(recommender.device))
    if reasons is None:
        (whole,) = recommender.recommend(
            [question.request],
            top_k=len(recommender.item_ids),
            exclude_seen=question.exclude_seen,
        )
        scores = {item.item_id: item.score for item in whole.items}
    else:
        pairs = zip(
            reasons.ranked.items[0].tolist(), reasons.ranked.scores[0].tolist(), strict=True
        )
        scores = {recommender.item_ids[row]: score for row, score in pairs if row >= 0}
    ranks = {item_id: rank for rank, item_id in enumerate(scores, start=1)}
    struck = question.struck(item_ids)
    otherwise: Struck = "never_had" if answer.popular else "not_generated"
    return [
        ItemReasons(
            item_id=item_id,
            rank=ranks.get(item_id),
            score=scores.get(item_id),
            struck=struck.get(item_id, None if item_id in ranks else otherwise),
            path=None if reasons is None else reasons.path(number),
            parts=None if reasons is None else reasons.parts_of(number),
            free_rank=free_ranks.get(item_id),
        )
        for number, item_id in enumerate(item_ids)
    ]
