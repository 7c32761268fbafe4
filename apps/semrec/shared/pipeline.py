"""The stages of a complete system, for every app."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from evalrec import Report
from genrec import Answers
from jaxtyping import Float, Int
from semtok import Catalog, SemanticIds
from torch import Tensor

from semrec.shared.catalogue import catalogue_stage
from semrec.shared.diversity import Grouping
from semrec.shared.errors import ExperimentError
from semrec.shared.floor_recommender import FloorRecommender
from semrec.shared.stage import Config, Setting, Stage
from semrec.shared.stages import floors_stage, items_stage, kept_floor_names, load_floor
from semrec.shared.users import KeptUsers, users_stage

if TYPE_CHECKING:
    from semrec.shared.exporting import ItemIndex

Mode = Literal["unfiltered", "filtered"]


def validation_key(mode: str) -> str:
    """The name of the validation users' NDCG@10 in trainings, for a mode."""
    return "ndcg@10" if mode == "unfiltered" else "ndcg@10 filtered"


class Pipeline(Setting[Config], ABC):
    """The stages of a run, or of a variant of a run in a study."""

    reads_text_fields: ClassVar[tuple[str, ...]]
    """The configuration keys that `text_fields` depends on."""

    judged_mode: ClassVar[Mode] = "filtered"
    """The mode in which models are compared: with or without the items of a user's history."""

    @property
    def answers_by(self) -> str | None:
        """A text that says what `recommend` answers by, if that may be a floor."""
        return None

    @property
    @abstractmethod
    def answering_row(self) -> str | None:
        """The row that `recommend` answers by; None if that depends on its options."""

    @property
    def summary(self) -> tuple[str, ...]:
        """The first lines that a command prints about a complete run."""
        return ()

    @property
    @abstractmethod
    def text_fields(self) -> tuple[str, ...]:
        """The catalogue's fields that make an item's text, for the floors."""

    @abstractmethod
    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a run in order, without "data"."""

    @abstractmethod
    def systems(self) -> dict[str, Stage[Report]]:
        """The stages of the tested models, by their rows in tables: the app's model first."""

    @abstractmethod
    def recommender(self) -> Answers:
        """The recommender of the run; it needs only the run's folder."""

    @abstractmethod
    def recommender_of(self, stage: Stage[Report]) -> Answers:
        """The recommender of one of `systems`; it needs only the run's folder.

        Args:
            stage: The stage of that system.
        """

    @abstractmethod
    def vectors(self) -> dict[str, Float[np.ndarray, "items dim"]]:
        """Embeddings of the items, by name."""

    @abstractmethod
    def item_index(self) -> ItemIndex:
        """The vectors that `export` indexes; needs only the run's folder."""

    def export_generator(self, folder: Path) -> dict[str, Any]:
        """Adds the generator to the folder of an export, if the system has one.

        Returns:
            The entries of export.json for the generator.
        """
        return {}

    def recommenders(self) -> dict[str, Callable[[], Answers]]:
        """The functions that load each ranking of the run, by its row in tables: the model first.

        Only floors that the run stores are included.
        """
        systems: dict[str, Callable[[], Answers]] = {
            title: partial(self.recommender_of, stage) for title, stage in self.systems().items()
        }
        names = kept_floor_names(self.floors)
        return systems | {name: partial(self._floor_recommender, name) for name in names}

    def _floor_recommender(self, name: str) -> FloorRecommender:
        floor = load_floor(self, name)
        return FloorRecommender(floor, self.item_ids, popularity=self.item_counts)

    def reports(self) -> dict[str, Report]:
        """The test reports by their rows in tables: the model first, the floors last."""
        reports = {title: stage.result() for title, stage in self.systems().items()}
        return reports | self.floors.result()

    @cached_property
    def items(self) -> Stage[list[dict[str, Any]]]:
        """The stage "data": each item's id, title and count, for answers without the data."""
        return items_stage(self)

    @cached_property
    def users(self) -> Stage[KeptUsers]:
        """The stage "users": the histories and categories, for answers without the data."""
        return users_stage(self)

    def kept_users(self) -> KeptUsers:
        """The users that the run stores.

        Raises:
            ExperimentError: An older version made the run and stored no users.
        """
        if not (self.users.is_complete or self.run.may_fill):
            raise ExperimentError(
                f"{self.run.path} keeps nothing of its users, since an older version made it: "
                "repeat the command that began the run to add them"
            )
        return self.users.result()

    @cached_property
    def catalogue(self) -> Stage[Catalog]:
        """The stage "catalogue": the items with all their fields."""
        return catalogue_stage(self)

    def kept_catalogue(self) -> Stage[Catalog]:
        """The catalogue that the run stores.

        Raises:
            ExperimentError: An older version made the run and stored no catalogue.
        """
        if not (self.catalogue.is_complete or self.run.may_fill):
            raise ExperimentError(
                f"{self.run.path} keeps no catalogue, since an older version made it: repeat the "
                "command that began the run to add it"
            )
        return self.catalogue

    def codes(self) -> SemanticIds | None:
        """The items' semantic IDs; None if the system has none."""
        return None

    def groups(self, grouping: Grouping) -> dict[str, object]:
        """The group of each item, by its id: its first code, or its categories.

        Raises:
            ExperimentError: The run has no codes, or its items no categories.
        """
        if grouping == "codes":
            codes = self.codes()
            if codes is None:
                raise ExperimentError(
                    f"--diversify must be categories: a run of {self.run.app} has no codes"
                )
            return dict(zip(self.item_ids, codes.codes[:, 0].tolist(), strict=True))
        categories = self.kept_users().categories
        if not any(categories):
            raise ExperimentError("--diversify must not be categories: the items have none")
        return dict(zip(self.item_ids, categories, strict=True))

    @cached_property
    def floors(self) -> Stage[dict[str, Report]]:
        """The stage "floors": what any model must beat."""
        return floors_stage(self, self.text_fields, reads=self.reads_text_fields)

    @cached_property
    def _known_items(self) -> list[dict[str, Any]]:
        return self.items.result()

    @property
    def item_ids(self) -> list[str]:
        """The id of each item row."""
        return [item["item_id"] for item in self._known_items]

    @property
    def titles(self) -> dict[str, str]:
        """The title of each item, by its id."""
        return {item["item_id"]: item["title"] for item in self._known_items}

    @property
    def item_counts(self) -> Int[Tensor, " items"]:
        """How often each item occurs in training."""
        return torch.tensor([item["count"] for item in self._known_items])
