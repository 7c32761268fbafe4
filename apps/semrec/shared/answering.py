"""Chooses what answers: the trained model, or a floor that is better on the validation users.

A network may learn too little from small or simple data. A transition table then ranks better than
the model, needs no training, and can be served. Beyond the papers.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from evalrec import MODES
from genrec import Answer, Answers, Ranked, Request
from torch import Tensor

from semrec.shared.data import Answering
from semrec.shared.files import read_json
from semrec.shared.pipeline import Pipeline, validation_key
from semrec.shared.stage import Config, Facts, Stage
from semrec.shared.stages import floor_ndcg


class AnsweringPipeline(Pipeline[Config]):
    """A run whose model answers, unless a floor is ahead of it on the validation users."""

    title: ClassVar[str]
    """The model's row in tables."""

    @property
    @abstractmethod
    def model_stage(self) -> Stage[Any]:
        """The stage that trains the model; its facts include the model's validation metrics."""

    @cached_property
    def answer(self) -> Stage[dict[str, str]]:
        """The stage "answer": for each mode, the name with the best NDCG@10 on validation.

        The candidates are the model and the floors. "unfiltered" is the usual answer, "filtered"
        answers if the items of a history are left out. A model that ranks these items high may be
        the best in one mode only.
        """

        def fill(folder: Path) -> Facts:
            evaluation = self.config.evaluation
            assert isinstance(evaluation, Answering)
            noted = self.model_stage.complete()["validation"]
            figures = {
                mode: {self.title: noted[validation_key(mode)], **floor_ndcg(self, mode)}
                for mode in MODES
            }
            best = self.best(figures)
            if evaluation.answer == "model":
                best = dict.fromkeys(MODES, self.title)
            return {"answers": best, "validation": figures}

        def load(folder: Path) -> dict[str, str]:
            names: dict[str, str] = read_json(folder / "stage.json")["answers"]
            return names

        return self.stage(
            "answer",
            reads=("seed", "evaluation.validation_users", "evaluation.answer"),
            after=(self.floors, self.model_stage),
            fill=fill,
            load=load,
        )

    def best(self, figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
        """The name of what shall answer, by mode.

        Args:
            figures: NDCG@10 of the validation users, by mode and name.
        """
        return {  # the first of equals is the model
            mode: max(by_name, key=lambda name: by_name[name]) for mode, by_name in figures.items()
        }

    def answering(self) -> dict[str, str]:
        """The name of what answers, by mode; the model for runs of versions without this choice."""
        if "answer" not in self.run.stored_config["evaluation"]:
            return dict.fromkeys(MODES, self.title)
        return self.answer.result()

    @property
    def answers_by(self) -> str:
        """What answers, as a text."""
        names = self.answering()
        if names["unfiltered"] == names["filtered"]:
            return names["filtered"]
        return f"{names['unfiltered']}, and {names['filtered']} with --exclude-seen"

    @property
    def answering_row(self) -> str | None:
        """The name of what answers if it is the same in both modes, else None."""
        (name, *others) = set(self.answering().values())
        return None if others else name

    def recommender(self) -> Answers:
        """The model or the floor that is ahead of it, for each mode."""
        names = self.answering()
        recommenders = self.recommenders()
        answers = {name: recommenders[name]() for name in dict.fromkeys(names.values())}
        if len(answers) == 1:
            return answers[names["unfiltered"]]
        return AnswersByMode(answers[names["unfiltered"]], answers[names["filtered"]])


class AnswersByMode(Answers):
    """Answers by one recommender, and by another if the items of a history are left out.

    Args:
        unfiltered: Answers without `exclude_seen`.
        filtered: Answers with `exclude_seen`.
    """

    def __init__(self, unfiltered: Answers, filtered: Answers) -> None:
        super().__init__(
            unfiltered.item_ids,
            num_items=len(unfiltered.item_ids),
            history_length=sys.maxsize,
            device=unfiltered.device,
            popularity=unfiltered.popularity,
        )
        self.unfiltered, self.filtered = unfiltered, filtered

    def of_mode(self, exclude_seen: bool) -> Answers:
        """The recommender for `exclude_seen` or without it."""
        return self.filtered if exclude_seen else self.unfiltered

    def rank(
        self, history: Tensor, exclude: Tensor | None, allowed: Tensor | None, top_k: int
    ) -> Ranked:
        """Ranks with the unfiltered recommender; `stream` calls both directly."""
        return self.unfiltered.rank(history, exclude, allowed, top_k)

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
        """Answers histories one batch at a time; arguments as for `recommend`."""
        recommender = self.filtered if exclude_seen else self.unfiltered
        return recommender.stream(
            histories,
            top_k=top_k,
            exclude_seen=exclude_seen,
            allow=allow,
            deny=deny,
            unknown=unknown,
            batch_size=batch_size,
        )
