"""What answers: the model that a run trained, or a floor that does better on its validation users.

Small or plain data may be beyond what a network learns: a transition table then ranks better than
the model, needs no training, and is a servable answer. Beyond the papers.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from evalrec import Floor, Report
from genrec import Answers, Ranked
from jaxtyping import Int
from torch import Tensor

from semrec.shared.data import Answering
from semrec.shared.files import read_json
from semrec.shared.pipeline import Pipeline
from semrec.shared.stage import Config, Facts, Stage
from semrec.shared.stages import floor_ndcg, load_floor


class AnsweringPipeline(Pipeline[Config]):
    """A run whose model answers, unless a floor is ahead of it on the validation users."""

    title: ClassVar[str]
    """The model's row in tables."""

    @property
    @abstractmethod
    def model_stage(self) -> Stage[Report]:
        """The stage that trains the model; its facts have the model's figures on validation."""

    @abstractmethod
    def model_recommender(self) -> Answers:
        """Answers by the model."""

    @cached_property
    def answer(self) -> Stage[str]:
        """The stage "answer": the name of what has the best NDCG@10 on validation.

        Of the model and the floors, in the mode by which the model's epochs are chosen.
        """

        def fill(folder: Path) -> Facts:
            figures = {
                self.title: self.model_stage.complete()["validation"][self.judged_by],
                **floor_ndcg(self),
            }
            evaluation = self.config.evaluation
            assert isinstance(evaluation, Answering)
            best = max(figures, key=lambda name: figures[name])  # of equals, the first: the model
            return {
                "answers": best if evaluation.answer == "best" else self.title,
                "validation": figures,
            }

        def load(folder: Path) -> str:
            name: str = read_json(folder / "stage.json")["answers"]
            return name

        return self.stage(
            "answer",
            reads=("seed", "evaluation.validation_users", "evaluation.answer"),
            after=(self.floors, self.model_stage),
            fill=fill,
            load=load,
        )

    @property
    def answers_by(self) -> str:
        """The row of tables that answers; of runs made before there was a choice, the model."""
        is_chosen = "answer" in self.run.config["evaluation"]
        return self.answer.result() if is_chosen else self.title

    def recommender(self) -> Answers:
        """The model, or the floor that is ahead of it."""
        if self.answers_by == self.title:
            return self.model_recommender()
        floor = load_floor(self, self.answers_by)
        return FloorRecommender(floor, self.item_ids, popularity=self.item_counts)


class FloorRecommender(Answers):
    """Answers histories by a floor; of items that it scores alike, those had most come first.

    Args:
        floor: The floor.
        item_ids: Id of each item row.
        popularity: How often each item was had.
    """

    def __init__(
        self, floor: Floor, item_ids: Sequence[str], *, popularity: Int[Tensor, " items"]
    ) -> None:
        super().__init__(
            item_ids,
            num_items=len(item_ids),
            history_length=sys.maxsize,
            device=torch.device("cpu"),
            popularity=popularity,
        )
        self.floor = floor
        self.order = popularity.argsort(descending=True, stable=True)  # [items]

    def rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Returns each history's best items by the floor's scores."""
        num_items = len(self.item_ids)
        histories = [row[row < num_items] for row in history.numpy().astype(np.int64)]
        scores = self.floor.score(histories)  # [batch, items]
        permitted = self.permitted(len(histories), exclude, allowed)
        if permitted is not None:
            scores = scores.masked_fill(~permitted, -torch.inf)
        best = scores[:, self.order].sort(dim=1, descending=True, stable=True)
        values, items = best.values[:, :top_k], self.order[best.indices[:, :top_k]]  # [batch, k]
        return Ranked(items=items.masked_fill(values == -torch.inf, -1), scores=values)
