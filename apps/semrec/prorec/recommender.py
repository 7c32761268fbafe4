"""The recommender of a complete run that answers by joined scores."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from evalrec import Candidates
from genrec import Answers, Ranked, Seq2Seq, beam_search, exact_scores, kept_levels, query_batches
from jaxtyping import Int
from torch import Tensor

from semrec.prorec.config import Joining
from semrec.prorec.joining import Scorer, candidates_of, on_base
from semrec.shared.reasons import Query, Reasons, paths_of

RANKINGS = ("c_dis", "stage_one", "graph_text")
"""Features whose best items also become candidates."""


class JoinedRecommender(Answers):
    """Answers histories by generation with further scores joined to it.

    A score is log p(item | history) plus the weighted features; only the order has a meaning. The
    generator reads the newest items of a history; the features read all of it, as in the test.

    Args:
        model: The generator; put into eval mode.
        item_ids: Id of each item row.
        scorers: The features of all items, by name.
        weights: The weights of the features.
        base: The scores to which they are added: "generation", or a feature.
        joining: The configuration of further candidates.
        popularity: The number of interactions of each item.
        num_beams: Items that generation returns; at least as many as the answer has.
    """

    num_beams: int

    def __init__(
        self,
        model: Seq2Seq,
        item_ids: Sequence[str],
        *,
        scorers: Mapping[str, Scorer],
        weights: Mapping[str, float],
        base: str,
        joining: Joining,
        popularity: Int[Tensor, " items"] | None,
        num_beams: int = 100,
    ) -> None:
        self.num_beams = num_beams
        self.model, self.weights, self.joining = model.eval(), weights, joining
        self.base = base
        self.tables = self.model.tables()
        self.dense = dense_candidates(scorers, joining.candidates)
        self.scorers = {
            name: scorer
            for name, scorer in scorers.items()
            if weights.get(name) or name in self.dense or name == base
        }
        super().__init__(
            item_ids,
            num_items=model.trie.num_items,
            history_length=sys.maxsize,
            device=model.trie.device,
            popularity=popularity,
        )

    def rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Returns each history's best items by the joined scores."""
        candidates = self._candidates(history, exclude, allowed, max(self.num_beams, top_k))
        return Ranked.best(candidates.scores(self.weights), top_k, items=candidates.items)

    def reasons(self, query: Query, items: Int[Tensor, " items"]) -> Reasons:
        """The reasons for the ranks of items: their paths and the joined features."""
        num_beams = max(self.num_beams, query.top_k)
        history, exclude, allowed = query.tensors(self)
        candidates = self._candidates(history, exclude, allowed, num_beams)
        scores = candidates.scores(self.weights)
        histories, read = self._read(history)
        paths = paths_of(self.model, read, items)
        kept = None
        if not self.joining.exact:
            kept = kept_levels(
                self.model,
                self.model.trie,
                read,
                items[None],
                num_beams=num_beams,
                exclude=exclude,
                allow=allowed,
                tables=self.tables,
            )[0]
        parts = {"generation": paths.log_probs.sum(dim=1)} if self.base == "generation" else {}
        for name, scorer in self.scorers.items():
            weight = 1.0 if name == self.base else self.weights.get(name, 0.0)
            if weight:
                parts[name] = weight * scorer(histories)[0].to(items.device)[items]
        return Reasons(
            ranked=Ranked.best(scores, scores.shape[1], items=candidates.items),
            paths=paths,
            kept_levels=kept,
            parts=parts,
        )

    def _read(
        self, history: Int[Tensor, "batch length"]
    ) -> tuple[list[Int[np.ndarray, " items"]], Int[Tensor, "batch length"]]:
        """Histories as the features read them, and as the generator reads them, on its device."""
        num_items = self.model.trie.num_items
        histories = [row[row < num_items] for row in history.cpu().numpy()]
        ((_, newest),) = query_batches(
            histories,
            num_items=num_items,
            history_length=self.model.config.history_length,
            batch_size=len(histories),
        )
        return histories, newest.to(self.device)

    @torch.inference_mode()
    def _candidates(
        self,
        history: Int[Tensor, "batch length"],
        exclude: Int[Tensor, "batch excluded"] | None,
        allowed: Tensor | None,
        num_beams: int,
    ) -> Candidates:
        """The items to rank, without excluded ones."""
        model = self.model
        histories, history = self._read(history)
        permitted = self.permitted(len(history), exclude, allowed)
        if self.joining.exact:
            scores = exact_scores(model, model.trie, history, tables=self.tables)
            beams = Ranked.best(scores, num_beams, permitted=permitted)
        else:
            beams = beam_search(
                model,
                model.trie,
                history,
                num_beams=num_beams,
                top_k=num_beams,
                exclude=exclude,
                allow=allowed,
                tables=self.tables,
            )
        candidates = candidates_of(
            model,
            histories,
            Ranked(items=beams.items.cpu(), scores=beams.scores.cpu()),
            self.scorers,
            dense=self.dense,
            permitted=None if permitted is None else permitted.cpu(),
            tables=self.tables,
        )
        return on_base(candidates, self.base)


def dense_candidates(scorers: Mapping[str, Scorer], count: int) -> dict[str, int]:
    """The rankings whose best items also become candidates, and how many of each."""
    return {name: count for name in RANKINGS if name in scorers and count}
