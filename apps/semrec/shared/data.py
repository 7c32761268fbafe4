"""What a run reads: a catalogue, its interactions and their split; how models are chosen on it."""

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
"""Early stopping looks at NDCG@10, whatever is tested."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of the two files are called; item ids are joined by value.

    Attributes:
        catalog_item: Of the items, their ids.
        user: Of the interactions, who it was.
        item: Of the interactions, the id of the item.
        timestamp: Of the interactions, when it was.
    """

    catalog_item: str = "item_id"
    user: str = "user_id"
    item: str = "item_id"
    timestamp: str = "timestamp"


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """How models are chosen and tested, whatever the app.

    Attributes:
        ks: Cut-offs.
        validation_users: Users drawn for early stopping; the test takes all.
    """

    ks: tuple[int, ...] = (5, 10, 20)
    validation_users: int = 5000

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ValueError(f"ks must be cut-offs of at least 1, got {self.ks}")
        check_at_least(1, self, "validation_users")


@dataclass(frozen=True, kw_only=True)
class Answering(Choosing):
    """How models are chosen and tested where one model, or a floor in its place, answers.

    Attributes:
        answer: What `recommend` answers by: the "model", or the "best" on the validation users of
            the model and the floors.
    """

    answer: Literal["best", "model"] = "best"


def field_groups(texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The catalogue's fields that each text is made of: "title+brand" is of two."""
    return tuple(tuple(name.strip() for name in text.split("+") if name.strip()) for text in texts)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A catalogue, its interactions and their leave-one-out split; row i is item i everywhere.

    Attributes:
        files: What was read.
        fitting: The files of stored embeddings that are known to fit the catalogue.
    """

    catalog: Catalog
    interactions: Interactions
    split: Split
    files: tuple[Path, ...]
    fitting: set[str] = field(default_factory=set)

    @property
    def counts(self) -> dict[str, int]:
        """What was read."""
        return {
            "items": len(self.catalog),
            "users": len(self.split.users),
            "users dropped (fewer than 3 interactions)": self.split.num_dropped,
            "interactions": len(self.interactions),
            "cold test targets": int(self.split.test.cold.sum()),
        }

    def texts(self, fields: Sequence[str]) -> list[str] | None:
        """One text an item, of those fields that there are; None where no item has a word."""
        return _texts(self.catalog, fields)

    def titles(self) -> list[str]:
        """A name to show for each item: its title, or its id where it has none."""
        if "title" not in self.catalog.fields:
            return self.catalog.item_ids
        pairs = zip(self.catalog.texts(("title",)), self.catalog.item_ids, strict=True)
        return [title or item_id for title, item_id in pairs]


@dataclass(frozen=True, kw_only=True)
class AppConfig(ABC):
    """What the configurations of all apps have, and how they are held against the data.

    Attributes:
        seed: Decides all that is drawn.
        columns: What the columns of the data's files are called.
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
        """What the items are embedded by: names, or files of stored embeddings."""

    @property
    def quantizers(self) -> tuple[str, ...]:
        """What the codes are made by."""
        return ()

    @property
    def backbones(self) -> tuple[str, ...]:
        """The sequence models that it names."""
        return ()

    @abstractmethod
    def training_samples(self, data: Data) -> dict[str, int]:
        """How many samples an epoch has, by the table that says how its model is trained."""

    @abstractmethod
    def check_items(self, data: Data) -> list[Path]:
        """Refuses items that hold too little for it; returns the further files that are read.

        Raises:
            CatalogError: An image is missing.
            ValueError: There is no field or no word to be embedded, or there are too few codes.
        """

    def check(self, data: Data) -> list[Path]:
        """Refuses data that a run of this could not go through, before it begins.

        Returns:
            The files of stored embeddings and of images, which are inputs of the run too.

        Raises:
            CatalogError: Such a file does not fit the catalogue, or an image is missing.
            ValueError: Items or users are too few, or items hold too little.
        """
        check_sizes(data, self.evaluation)
        further = self.check_items(data)
        return [*check_embeddings(self.embeddings, data), *further]


def read_data(folder: Path, columns: Columns, screen: Screen) -> Data:
    """Reads and checks a native folder; nothing is written.

    Args:
        folder: Holds one items file and one interactions file.
        columns: Their names for what is read.
        screen: Told what was read.

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
    """Refuses data that no model could be trained, chosen and tested on.

    Raises:
        ValueError: There are fewer items than are ranked, or no user has items to train on.
    """
    num_items = len(data.catalog)
    if num_items < _STOPPED_BY:
        raise ValueError(
            f"the items must be at least {_STOPPED_BY}, since early stopping looks at "
            f"NDCG@{_STOPPED_BY}, got {num_items}"
        )
    if max(choosing.ks) > num_items:
        raise ValueError(
            f"evaluation.ks must be at most {num_items}, the number of items, got {choosing.ks}: "
            "set ks under [evaluation]"
        )
    if all(len(history) < 2 for history in data.split.train):
        raise ValueError(
            "the users must have 4 interactions or more, at least one of them: the last two are "
            "kept for validation and test, and one alone trains nothing"
        )


def check_texts(embedding: str, groups: Sequence[Sequence[str]], catalog: Catalog) -> None:
    """Refuses fields that cannot be embedded.

    Args:
        embedding: What embeds them; of stored embeddings nothing is asked.
        groups: The fields of each text.
        catalog: The items.

    Raises:
        ValueError: The catalogue has none of a text's fields, or no word in them, where words are
            all that is embedded.
    """
    if is_stored(embedding):
        return
    for fields in groups:
        if not any(field in catalog.fields for field in fields):
            catalog.texts(fields)  # which says what fields there are
        if embedding == "lsa" and _texts(catalog, fields) is None:
            raise ValueError(
                f"fields must hold words for at least one item, got none in {', '.join(fields)}"
            )


def _texts(catalog: Catalog, fields: Sequence[str]) -> list[str] | None:
    known = [field for field in fields if field in catalog.fields]
    texts = catalog.texts(known) if known else []
    return texts if any(map(_WORD.search, texts)) else None


def check_embeddings(embeddings: Sequence[str], data: Data) -> list[Path]:
    """Reads the files of stored embeddings, so that a wrong one is refused before a run begins.

    A file is read once, however many variants of a study name it.

    Returns:
        The files that `embeddings` names, those of a model's folder among them.

    Raises:
        CatalogError: A file does not fit the catalogue.
    """
    for embedding in embeddings:
        if is_stored(embedding) and embedding not in data.fitting:
            read_embeddings(embedding, data.catalog.item_ids)
            data.fitting.add(embedding)
    return input_files(list(embeddings))
