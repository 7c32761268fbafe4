"""Where items stand in a ranking after a history, why, and what struck others out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from genrec import Answer, Answers, Request

from semrec.shared.answering import AnswersByMode
from semrec.shared.reasons import Query, Reasons, Step, reasons_of

Struck = Literal["seen", "denied", "not_allowed", "never_had", "not_generated"]
"""Why an item is not ranked: it is in the history, where such items are left out; it was denied;
it is not among those allowed; nobody ever had it, where the popular items answer; or generation did
not come to it."""


@dataclass(frozen=True, kw_only=True)
class ItemReasons:
    """Where an item stands in a ranking, and why.

    Attributes:
        item_id: The item's id.
        rank: Its place, from 1 on; None where it is not ranked.
        score: As the ranking has it; None where it is not ranked.
        struck: Why it is not ranked; None where it is.
        path: Its codes one after the other; None where the ranking generates none.
        parts: What its score is the sum of, by name; None where it is of one part.
        free_rank: Its place if nothing were struck out; None where that was not asked for.
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
    """What a history is answered with, and why.

    Attributes:
        items: Those that were asked for, or the first of the answer.
        left_out: Those that would be in the answer if nothing were struck out.
        popular: Whether no item of the history is known, so that the popular ones answer.
    """

    items: list[ItemReasons]
    left_out: list[ItemReasons]
    popular: bool


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of a recommender, and explained.

    Attributes:
        request: The history, and what may be returned; ids that are not known change nothing.
        top_k: Items of the answer.
        exclude_seen: Whether items of the history are left out.
    """

    request: Request
    top_k: int
    exclude_seen: bool

    @property
    def strikes(self) -> bool:
        """Whether any item may not be returned."""
        return self.exclude_seen or bool(self.request.deny) or self.request.allow is not None

    def struck(self, item_ids: Iterable[str]) -> dict[str, Struck]:
        """Those of the items that may not be returned, and why."""
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
        """The same in rows of a recommender."""

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
    """Explains where items stand after a history.

    Args:
        recommender: What ranks.
        question: The history, and how it is answered.
        item_ids: Known ids; None for the first of the answer.
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
    """What is known of each item; `answer` is what the question is answered with."""
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
