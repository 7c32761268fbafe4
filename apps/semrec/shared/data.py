"""The data of a run: a catalogue, interactions and their split; checks before a run begins."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from semtok import Catalog, find_catalog, is_stored, read_catalog, read_embeddings

from semrec.shared.configuration import check_at_least, check_seed
from semrec.shared.files import input_files
from semrec.shared.screen import Screen

if TYPE_CHECKING:
    from evalrec import Interactions, Split

_WORD = re.compile(r"\w")
_STOPPED_BY = 10
"""Early stopping uses NDCG@10, whatever the test reports."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The names of the columns in the two files; item ids are joined by value.

    Attributes:
        catalog_item: The item ids in the items file.
        user: The users in the interactions file.
        item: The item ids in the interactions file.
        timestamp: The times in the interactions file.
    """

    catalog_item: str = "item_id"
    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """How models are chosen and tested, in every app.

    Attributes:
        ks: The cut-offs of the metrics.
        validation_users: The number of users drawn for early stopping; the test uses all users.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    validation_users: int = 5000

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be cut-offs of at least 1, got {self.ks}")
        check_at_least(1, self, "validation_users")


@dataclass(frozen=True, kw_only=True)
class Answering(Choosing):
    """How models are chosen and tested if one model, or a floor in its place, answers.

    Attributes:
        answer: What `recommend` answers by: the "model", or the "best" of the model and the floors
            on the validation users.
    """

    answer: Literal["best", "model"] = "best"


def field_groups(texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The catalogue's fields of each text: "title+brand" joins two fields."""
    return tuple(tuple(name.strip() for name in text.split("+") if name.strip()) for text in texts)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A catalogue, its interactions and their leave-one-out split; row i is item i everywhere.

    Attributes:
        files: The files that were read.
        fitting: The files of stored embeddings that were checked against the catalogue.
    """

    catalog: Catalog
    interactions: Interactions
    split: Split
    files: tuple[Path, ...]
    fitting: set[str] = field(default_factory=set)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of items, users and interactions."""
        return {
            "items": len(self.catalog),
            "users": len(self.split.users),
            "users dropped (fewer than 3 interactions)": self.split.num_dropped,
            "interactions": len(self.interactions),
            "cold test targets": int(self.split.test.cold.sum()),
        }

    def texts(self, fields: Sequence[str]) -> list[str] | None:
        """One text per item, from the existing fields; None if no item has a word."""
        return _texts(self.catalog, fields)

    def titles(self) -> list[str]:
        """A name to show for each item: its title, or its id without one."""
        if "title" not in self.catalog.fields:
            return self.catalog.item_ids
        pairs = zip(self.catalog.texts(("title",)), self.catalog.item_ids, strict=True)
        return [title or item_id for title, item_id in pairs]


@dataclass(frozen=True, kw_only=True)
class AppConfig(ABC):
    """The part of the configuration that all apps share, and its checks against the data.

    Attributes:
        seed: The seed of all random draws.
        columns: The names of the columns in the data files.
        evaluation: How models are chosen and tested.
    """

    seed: int = 0
    columns: Columns = field(default_factory=Columns)
    if TYPE_CHECKING:  # run.json has it last, so each app declares it after its own tables
        evaluation: Choosing

    def __post_init__(self) -> None:
        check_seed(self.seed)

    @property
    @abstractmethod
    def embeddings(self) -> tuple[str, ...]:
        """The embeddings of the items: names of models, or files of stored embeddings."""

    @property
    def quantizers(self) -> tuple[str, ...]:
        """The quantizers that the configuration names."""
        return ()

    @property
    def backbones(self) -> tuple[str, ...]:
        """The sequence models that the configuration names."""
        return ()

    @abstractmethod
    def training_samples(self, data: Data) -> dict[str, int]:
        """The number of samples in an epoch, by the table that configures the training."""

    @abstractmethod
    def check_items(self, data: Data) -> list[Path]:
        """Refuses items with too little content; returns the further input files.

        Raises:
            CatalogError: An image is missing.
            ValueError: There is no field or no word to embed, or there are too few codes.
        """

    def check(self, data: Data) -> list[Path]:
        """Refuses data that this configuration cannot run on, before the run begins.

        Returns:
            The files of stored embeddings and of images, which are also inputs of the run.

        Raises:
            CatalogError: A file does not fit the catalogue, or an image is missing.
            ValueError: There are too few items or users, or items have too little content.
        """
        check_sizes(data, self.evaluation)
        further = self.check_items(data)
        return [*check_embeddings(self.embeddings, data), *further]


def read_data(folder: Path, columns: Columns, screen: Screen) -> Data:
    """Reads and checks a native folder; writes nothing.

    Args:
        folder: A folder with one items file and one interactions file.
        columns: The names of the columns.
        screen: Shows the numbers of items, users and interactions.

    Raises:
        CatalogError: The items cannot be read.
        DataError: The interactions cannot be read, or name an item that the catalogue lacks.
    """
    from evalrec import find_interactions, leave_one_out, read_interactions

    items, interactions = find_catalog(folder), find_interactions(folder)
    catalog = read_catalog(items, id_column=columns.catalog_item)
    table = read_interactions(
        interactions,
        user_column=columns.user,
        item_column=columns.item,
        timestamp_column=columns.timestamp,
        item_ids=catalog.item_ids,
    )
    split = leave_one_out(table)
    data = Data(
        catalog=catalog,
        interactions=table,
        split=split,
        files=(items, interactions),
    )
    screen.say("data: " + ", ".join(f"{count:,} {name}" for name, count in data.counts.items()))
    return data


def check_sizes(data: Data, choosing: Choosing) -> None:
    """Refuses data that are too small to train, choose and test a model.

    Raises:
        ValueError: There are fewer items than the cut-offs need, or no user has items to train on.
    """
    num_items = len(data.catalog)
    if num_items < _STOPPED_BY:
        raise ValueError(
            f"the items must be at least {_STOPPED_BY}, since early stopping uses "
            f"NDCG@{_STOPPED_BY}, got {num_items}"
        )
    if max(choosing.ks) > num_items:
        raise ValueError(
            f"evaluation.ks must be at most {num_items}, the number of items, got {choosing.ks}: "
            "set ks under [evaluation]"
        )
    if all(len(history) < 2 for history in data.split.train):
        raise ValueError(
            "at least one of the users must have 4 interactions or more: the last two are for "
            "validation and test, and training needs two"
        )


def check_texts(embedding: str, groups: Sequence[Sequence[str]], catalog: Catalog) -> None:
    """Refuses fields that cannot be embedded.

    Args:
        embedding: The embedding; stored embeddings are not checked here.
        groups: The fields of each text.
        catalog: The items.

    Raises:
        ValueError: The catalogue has none of a text's fields, or, for LSA, no word in them.
    """
    if is_stored(embedding):
        return
    for fields in groups:
        if not any(field in catalog.fields for field in fields):
            catalog.texts(fields)  # raises an error that lists the fields
        if embedding == "lsa" and _texts(catalog, fields) is None:
            raise ValueError(
                f"fields must hold words for at least one item, got none in {', '.join(fields)}"
            )


def _texts(catalog: Catalog, fields: Sequence[str]) -> list[str] | None:
    known = [field for field in fields if field in catalog.fields]
    texts = catalog.texts(known) if known else []
    return texts if any(map(_WORD.search, texts)) else None


def check_embeddings(embeddings: Sequence[str], data: Data) -> list[Path]:
    """Reads the files of stored embeddings, so that a wrong file is refused before a run begins.

    Each file is read once, even if several variants of a study name it.

    Returns:
        The files that `embeddings` names, including those of a model's folder.

    Raises:
        CatalogError: A file does not fit the catalogue.
    """
    for embedding in embeddings:
        if is_stored(embedding) and embedding not in data.fitting:
            read_embeddings(embedding, data.catalog.item_ids)
            data.fitting.add(embedding)
    return input_files(list(embeddings))
