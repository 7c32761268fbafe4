"""The stages of a whole system, whatever its paper, and what completes a run of them."""

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
    """What trainings call the NDCG@10 of the validation users in a mode."""
    return "ndcg@10" if mode == "unfiltered" else "ndcg@10 filtered"


class Pipeline(Setting[Config], ABC):
    """The stages of a run, or of a variant of it that a study needs."""

    reads_text_fields: ClassVar[tuple[str, ...]]
    """What of the configuration names `text_fields`."""

    judged_mode: ClassVar[Mode] = "filtered"
    """Whether models are told apart with the items of a user's history struck out."""

    @property
    def answers_by(self) -> str | None:
        """What `recommend` answers by, in words, where it may be a floor."""
        return None

    @property
    @abstractmethod
    def answering_row(self) -> str | None:
        """The row of tables that `recommend` answers by; None where that depends on its options."""

    @property
    def summary(self) -> tuple[str, ...]:
        """Lines that a command prints first of a completed run."""
        return ()

    @property
    @abstractmethod
    def text_fields(self) -> tuple[str, ...]:
        """The catalogue's fields that make an item's text, for the floors."""

    @abstractmethod
    def stages(self) -> tuple[Stage[Any], ...]:
        """The stages of a whole run in order, but for "data"."""

    @abstractmethod
    def systems(self) -> dict[str, Stage[Report]]:
        """What is trained and tested, by its row in tables: the model first."""

    @abstractmethod
    def recommender(self) -> Answers:
        """What answers histories; it needs the run's folder alone."""

    @abstractmethod
    def recommender_of(self, stage: Stage[Report]) -> Answers:
        """What answers as one of `systems` ranks; it needs the run's folder alone.

        Args:
            stage: That system's.
        """

    @abstractmethod
    def vectors(self) -> dict[str, Float[np.ndarray, "items dim"]]:
        """Embeddings of the items, by name."""

    @abstractmethod
    def item_index(self) -> ItemIndex:
        """What `export` makes an index of; it needs the run's folder alone."""

    def export_generator(self, folder: Path) -> dict[str, Any]:
        """Adds to the folder of an export what generates items, where the system does.

        Returns:
            What export.json says of it.
        """
        return {}

    def recommenders(self) -> dict[str, Callable[[], Answers]]:
        """What loads each ranking of the run, by its row in tables: the model first.

        Of the floors there are those that the run keeps.
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
        """The test's reports by their rows in tables: the model first, the floors last."""
        reports = {title: stage.result() for title, stage in self.systems().items()}
        return reports | self.floors.result()

    @cached_property
    def items(self) -> Stage[list[dict[str, Any]]]:
        """The stage "data": what is known of each item once the data are not at hand."""
        return items_stage(self)

    @cached_property
    def users(self) -> Stage[KeptUsers]:
        """The stage "users": what is known of users and categories without the data."""
        return users_stage(self)

    def kept_users(self) -> KeptUsers:
        """What the run keeps of its users.

        Raises:
            ExperimentError: It is a run of an older version, and keeps nothing.
        """
        if not (self.users.is_complete or self.run.may_fill):
            raise ExperimentError(
                f"{self.run.path} keeps nothing of its users, since an older version made it: the "
                "command that began it adds what is missing"
            )
        return self.users.result()

    @cached_property
    def catalogue(self) -> Stage[Catalog]:
        """The stage "catalogue": the items with all their fields."""
        return catalogue_stage(self)

    def kept_catalogue(self) -> Stage[Catalog]:
        """What the run keeps of its catalogue.

        Raises:
            ExperimentError: It is a run of an older version, and keeps nothing.
        """
        if not (self.catalogue.is_complete or self.run.may_fill):
            raise ExperimentError(
                f"{self.run.path} keeps no catalogue, since an older version made it: the command "
                "that began it adds what is missing"
            )
        return self.catalogue

    def codes(self) -> SemanticIds | None:
        """The items' semantic IDs; None where the system has none."""
        return None

    def groups(self, grouping: Grouping) -> dict[str, object]:
        """What items share with others, by their ids: their first code, or their categories.

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
        """What each item is called, by its id."""
        return {item["item_id"]: item["title"] for item in self._known_items}

    @property
    def item_counts(self) -> Int[Tensor, " items"]:
        """How often each item occurs in training."""
        return torch.tensor([item["count"] for item in self._known_items])
