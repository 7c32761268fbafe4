"""What answers histories by a complete run: generation, or what is joined to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from experiment import read_json
from genrec import Answer, Answers, Ranked, Recommender, Seq2Seq, beam_search, load_model
from jaxtyping import Int
from prorec_config import Config, Joining
from prorec_joined import dense_candidates, load_scorers
from prorec_joining import Candidates, Scorer, candidates_of, generated
from safetensors.torch import load_file
from torch import Tensor


class JoinedRecommender(Answers):
    """Answers histories by generation with other scores joined to it.

    Scores are log p(item | history) plus each feature times its weight; they tell the order alone.

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
            history_length=model.config.history_length,
            device=model.trie.device,
            popularity=popularity,
        )

    def stream(
        self,
        histories: Iterable[Sequence[str]],
        *,
        top_k: int = 10,
        num_beams: int = 100,
        exclude_seen: bool = False,
        unknown: str = "skip",
        batch_size: int = 64,
    ) -> Iterator[Answer]:
        """Answers histories as they come; arguments as for `genrec.Recommender.recommend`."""

        def rank(history: Tensor, exclude: Tensor | None, allowed: Tensor | None) -> Ranked:
            assert allowed is None
            return self._best(self._candidates(history, exclude, num_beams), exclude, top_k)

        return self.answers(
            histories,
            rank,
            top_k=top_k,
            exclude_seen=exclude_seen,
            allow=None,
            deny=(),
            unknown=unknown,  # type: ignore[arg-type]
            batch_size=batch_size,
        )

    def _candidates(
        self,
        history: Int[Tensor, "batch length"],
        exclude: Int[Tensor, "batch excluded"] | None,
        num_beams: int,
    ) -> Candidates:
        num_items = self.model.trie.num_items
        spare = 0 if exclude is None else exclude.shape[1]  # so many may be struck out
        histories = [row[row < num_items] for row in history.cpu().numpy()]
        if self.joining.exact:
            beams = generated(
                self.model, histories, num_beams=num_beams + spare, exact=True, tables=self.tables
            )
        else:
            best = beam_search(
                self.model,
                self.model.trie,
                history,
                num_beams=num_beams,
                top_k=num_beams,
                exclude=exclude,
                tables=self.tables,
            )
            beams = best.items.cpu(), best.scores.cpu()
        found = candidates_of(
            self.model, histories, beams, self.scorers, dense=self.dense, tables=self.tables
        )
        return found.on(self.joining.base)

    def _best(
        self, found: Candidates, exclude: Int[Tensor, "batch excluded"] | None, top_k: int
    ) -> Ranked:
        scores = found.scores(self.weights)
        if exclude is not None:
            struck = (found.items[:, :, None] == exclude.cpu()[:, None]).any(dim=2)
            scores = scores.masked_fill(struck, -torch.inf)
        best = scores.topk(min(top_k, scores.shape[1]), dim=1)
        items = found.items.gather(1, best.indices).masked_fill(best.values == -torch.inf, -1)
        return Ranked(items=items, scores=best.values)


def load_recommender(
    run: Path, config: Config, device: torch.device
) -> Recommender | JoinedRecommender:
    """The recommender of a complete run: a joined one where the run joins."""
    if not config.joining.any:
        return Recommender.load(run / "stage_two/model", device=device)
    saved = load_model(run / "stage_two/model")
    model, joined = saved.model.to(device).eval(), run / "joined"
    features = load_file(joined / "features.safetensors")
    return JoinedRecommender(
        model,
        saved.item_ids,
        scorers=load_scorers(config, model, features, run, "stage_one"),
        weights=read_json(joined / "stage.json")["weights"],
        joining=config.joining,
        popularity=saved.popularity,
    )
