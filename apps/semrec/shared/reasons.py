"""Why a recommender ranks items as it does after a history, as the recommender itself knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from genrec import Answers, Ranked, Recommender, Seq2Seq, kept_levels, path_log_probs
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Query:
    """One history as recommenders rank it, in item rows.

    Attributes:
        history: The items, oldest first.
        exclude: What must not be returned.
        allow: What alone may be returned; None for all.
        top_k: Items that are wanted.
    """

    history: list[int]
    exclude: list[int]
    allow: list[int] | None
    top_k: int

    def tensors(
        self, recommender: Answers
    ) -> tuple[Int[Tensor, "1 length"], Int[Tensor, "1 m"] | None, Int[Tensor, "1 n"] | None]:
        """History, `exclude` and `allow` as `Answers.rank` takes them."""

        def row(items: list[int]) -> Int[Tensor, "1 length"]:
            padding = len(recommender.item_ids)
            return torch.tensor([items or [padding]], device=recommender.device)

        return (
            row(self.history),
            row(self.exclude) if self.exclude else None,
            None if self.allow is None else row(self.allow),
        )


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The codes of items, one after the other, as a generator has them after a history.

    Attributes:
        codes: Of each item.
        log_probs: Of each code, given those before it and the history.
        choices: How many codes may follow those before each.
    """

    codes: Int[Tensor, "items levels"]
    log_probs: Float[Tensor, "items levels"]
    choices: Int[Tensor, "items levels"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One code of an item's path down the tree of codes.

    Attributes:
        code: The code.
        probability: Of the code, given those before it and the history, by the generator.
        choices: How many codes may follow those before it.
        kept: Whether the beams keep the path up to here; None where no beams are searched.
    """

    code: int
    probability: float
    choices: int
    kept: bool | None


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """What a recommender that generates knows of its ranking of some items.

    Attributes:
        ranked: All that is ranked after one history, the best first.
        paths: Of the items.
        kept_levels: How many of each item's codes the beams keep; None where no beams are searched.
        parts: What each item's score is the sum of, by name; empty where it is of one part.
    """

    ranked: Ranked
    paths: Paths
    kept_levels: Int[Tensor, " items"] | None
    parts: Mapping[str, Float[Tensor, " items"]] = field(default_factory=dict)

    def path(self, number: int) -> list[Step]:
        """The path of the item of this number."""
        kept = None if self.kept_levels is None else int(self.kept_levels[number])
        steps = zip(
            self.paths.codes[number].tolist(),
            self.paths.log_probs[number].exp().tolist(),
            self.paths.choices[number].tolist(),
            strict=True,
        )
        return [
            Step(
                code=code,
                probability=probability,
                choices=choices,
                kept=None if kept is None else level < kept,
            )
            for level, (code, probability, choices) in enumerate(steps)
        ]

    def parts_of(self, number: int) -> dict[str, float] | None:
        """What the score of the item of this number is the sum of; None where it is of one part."""
        return {name: float(values[number]) for name, values in self.parts.items()} or None


@runtime_checkable
class Explains(Protocol):
    """A recommender that has reasons of its own."""

    def reasons(self, query: Query, items: Int[Tensor, " items"]) -> Reasons:
        """Why these item rows stand where they stand."""


def paths_of(
    model: Seq2Seq, history: Int[Tensor, "1 length"], items: Int[Tensor, " items"]
) -> Paths:
    """The paths of items down a generator's tree, after a history."""
    trie = model.trie
    nodes = trie.paths(items)  # [items, levels]
    parents = F.pad(nodes[:, :-1], (1, 0)).T  # [levels, items], the root first
    choices = [
        trie.first_child(level, above + 1) - trie.first_child(level, above)
        for level, above in enumerate(parents)
    ]
    return Paths(
        codes=trie.codes_on(nodes),
        log_probs=path_log_probs(model, trie, history, items[None])[0],
        choices=torch.stack(choices, dim=1),
    )


def reasons_of(recommender: Answers, query: Query, items: Int[Tensor, " items"]) -> Reasons | None:
    """Why a recommender that generates ranks items as it does; None of another."""
    if isinstance(recommender, Explains):
        return recommender.reasons(query, items)
    if not isinstance(recommender, Recommender):
        return None
    num_beams = max(recommender.num_beams, query.top_k)
    history, exclude, allow = query.tensors(recommender)
    return Reasons(
        ranked=recommender.rank(history, exclude, allow, num_beams),
        paths=paths_of(recommender.model, history, items),
        kept_levels=kept_levels(
            recommender.model,
            recommender.model.trie,
            history,
            items[None],
            num_beams=num_beams,
            exclude=exclude,
            allow=allow,
        )[0],
    )
