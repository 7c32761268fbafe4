"""The reasons of a recommender for its ranking of items after a history."""

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
    """One history and its options, in item rows.

    Attributes:
        history: The items, oldest first.
        exclude: Items that must not be returned.
        allow: The only items that may be returned; None for all.
        top_k: The number of items to return.
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
    """The codes of items with their probabilities after a history.

    Attributes:
        codes: The codes of each item.
        log_probs: The log-probability of each code, given the codes before it and the history.
        choices: The number of codes that may follow the codes before each one.
    """

    codes: Int[Tensor, "items levels"]
    log_probs: Float[Tensor, "items levels"]
    choices: Int[Tensor, "items levels"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One code of an item's path down the tree of codes.

    Attributes:
        code: The code.
        probability: The generator's probability of the code, given the codes before it and the
            history.
        choices: The number of codes that may follow the codes before it.
        kept: Whether beam search keeps the path up to here; None without beam search.
    """

    code: int
    probability: float
    choices: int
    kept: bool | None


@dataclass(frozen=True, kw_only=True)
class Reasons:
    """The reasons of a generator for its ranking of some items.

    Attributes:
        ranked: The ranking after one history, best first.
        paths: The paths of the items.
        kept_levels: How many codes of each item beam search keeps; None without beam search.
        parts: The terms of each item's score, by name; empty if the score is not a sum.
    """

    ranked: Ranked
    paths: Paths
    kept_levels: Int[Tensor, " items"] | None
    parts: Mapping[str, Float[Tensor, " items"]] = field(default_factory=dict)

    def path(self, number: int) -> list[Step]:
        """The path of the item with this number."""
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
        """The terms of the score of the item with this number; None if it is not a sum."""
        return {name: float(values[number]) for name, values in self.parts.items()} or None


@runtime_checkable
class Explains(Protocol):
    """A recommender that can explain its ranking."""

    def reasons(self, query: Query, items: Int[Tensor, " items"]) -> Reasons:
        """The reasons for the ranks of these item rows."""


def paths_of(
    model: Seq2Seq, history: Int[Tensor, "1 length"], items: Int[Tensor, " items"]
) -> Paths:
    """The paths of items in a generator's tree, after a history."""
    trie = model.trie
    nodes = trie.paths(items)  # [items, levels]
    parents = F.pad(nodes[:, :-1], (1, 0)).T  # [levels, items], from the root
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
    """The reasons of a recommender that can explain its ranking; None for others."""
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
