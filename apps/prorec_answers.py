"""What answers histories by a complete run: generation, or what is joined to it."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from experiment import load_tensors, read_json
from genrec import (
    Answer,
    Answers,
    Ranked,
    Recommender,
    Request,
    Seq2Seq,
    beam_search,
    exact_scores,
    load_model,
    query_batches,
)
from jaxtyping import Int
from prorec_config import Config, Joining
from prorec_joined import dense_candidates, load_scorers
from prorec_joining import Candidates, Scorer, candidates_of
from torch import Tensor


class JoinedRecommender(Answers):
    """Answers histories by generation with other scores joined to it.

    Scores are log p(item | history) plus each feature times its weight; they tell the order alone.
    The generator reads the newest items of a history; each feature has all of it, as in the test.

    Args:
        model: The generator; put into eval mode.
        item_ids: Id of each item row.
        scorers: The features of all items, by name.
        weights: Of the features.
        joining: What the scores are added to, and what else becomes a candidate.
        popularity: How often each item was had.
    """

    def __init__(
        self,
        model: Seq2Seq,
        item_ids: Sequence[str],
        *,
        scorers: Mapping[str, Scorer],
        weights: Mapping[str, float],
        joining: Joining,
        popularity: Int[Tensor, " items"] | None,
    ) -> None:
        self.model, self.weights, self.joining = model.eval(), weights, joining
        self.tables = self.model.tables()
        self.dense = dense_candidates(scorers, joining.candidates)
        self.scorers = {
            name: scorer
            for name, scorer in scorers.items()
            if weights.get(name) or name in self.dense or name == joining.base
        }
        super().__init__(
            item_ids,
            num_items=model.trie.num_items,
            history_length=sys.maxsize,
            device=model.trie.device,
            popularity=popularity,
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
        """Answers histories as they come; arguments as for `genrec.Recommender.recommend`."""

        def rank(history: Tensor, exclude: Tensor | None, allowed: Tensor | None) -> Ranked:
            found = self._candidates(history, exclude, allowed, num_beams)
            return Ranked.best(found.scores(self.weights), top_k, items=found.items)

        return self.answers(
            histories,
            rank,
            top_k=top_k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            unknown=unknown,
            batch_size=batch_size,
        )

    @torch.inference_mode()
    def _candidates(
        self,
        history: Int[Tensor, "batch length"],
        exclude: Int[Tensor, "batch excluded"] | None,
        allowed: Tensor | None,
        num_beams: int,
    ) -> Candidates:
        """The items to be ranked, all of which may be returned."""
        model, num_items = self.model, self.model.trie.num_items
        histories = [row[row < num_items] for row in history.cpu().numpy()]
        ((_, history),) = query_batches(
            histories,
            num_items=num_items,
            history_length=model.config.history_length,
            batch_size=len(histories),
        )
        history = history.to(self.device)
        permitted = self.permitted(len(history), exclude, allowed)
        if self.joining.exact:
            scores = exact_scores(model, model.trie, history, tables=self.tables)
            found = Ranked.best(scores, num_beams, permitted=permitted)
        else:
            found = beam_search(
                model,
                model.trie,
                history,
                num_beams=num_beams,
                top_k=num_beams,
                exclude=exclude,
                allow=allowed,
                tables=self.tables,
            )
        return candidates_of(
            model,
            histories,
            (found.items.cpu(), found.scores.cpu()),
            self.scorers,
            dense=self.dense,
            permitted=None if permitted is None else permitted.cpu(),
            tables=self.tables,
        ).on(self.joining.base)


def load_recommender(
    run: Path, config: Config, device: torch.device
) -> Recommender | JoinedRecommender:
    """The recommender of a complete run: a joined one where the run joins."""
    if not config.joining.any:
        return Recommender.load(run / "stage_two/model", device=device)
    saved = load_model(run / "stage_two/model")
    model, joined = saved.model.to(device).eval(), run / "joined"
    features = load_tensors(joined / "features.safetensors")
    return JoinedRecommender(
        model,
        saved.item_ids,
        scorers=load_scorers(config, model, features, run, "stage_one"),
        weights=read_json(joined / "stage.json")["weights"],
        joining=config.joining,
        popularity=saved.popularity,
    )
