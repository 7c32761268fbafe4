"""A split made by others, from one file per part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evalrec.interactions import DataError, Interactions, flatten
from evalrec.readers.native import read_interactions
from evalrec.splits import Queries, Split

PARTS = ("train", "valid", "test")


def read_split(files: Sequence[str | Path], interactions: Interactions) -> Split:
    """Read a split from files of interactions, to check it or to evaluate on it.

    The name of each file says its part: one contains "train", one "test", and one may contain
    "valid". Every row of the latter two is a query; its history is what the user has in the parts
    before, in order of time. Without a validation file, the test is also the validation.

    Args:
        files: Files as `read_interactions` takes them.
        interactions: The table that was split; its rows of users and items are the split's.

    Raises:
        DataError: If a part is missing or passed twice, or a file cannot be read or holds a user or
            an item that the table lacks.
    """
    paths: dict[str, Path] = {}
    for path in map(Path, files):
        part = next((part for part in PARTS if part in path.name.lower()), None)
        if part is None:
            raise DataError(f"{path} must say its part in its name: train, valid or test")
        if part in paths:
            raise DataError(f"{path} is a second file of {part}, beside {paths[part]}")
        paths[part] = path
    for part in ("train", "test"):
        if part not in paths:
            raise DataError(f"no file of {part} is given, only {', '.join(map(str, files))}")
    tables = {
        part: read_interactions(
            paths[part], item_ids=interactions.item_ids, user_ids=interactions.user_ids
        )
        for part in PARTS
        if part in paths
    }
    train = tables["train"].histories()
    users = np.flatnonzero([len(history) for history in train])
    trained = np.zeros(interactions.num_items, dtype=bool)
    trained[flatten(train)[1]] = True
    queries: list[Queries] = []
    known = train
    for part in PARTS[1:]:
        if part in tables:
            queries.append(_queries(tables[part], known, trained))
            later = tables[part].histories()
            known = [np.concatenate(both) for both in zip(known, later, strict=True)]
    in_parts = np.unique(np.concatenate([table.users for table in tables.values()]))
    return Split(
        users=users,
        train=[train[user] for user in users],
        validation=queries[0],
        test=queries[-1],
        num_items=interactions.num_items,
        num_dropped=len(np.setdiff1d(interactions.users, in_parts)),
    )


def _queries(table: Interactions, known: Sequence[np.ndarray], trained: np.ndarray) -> Queries:
    """One query for each row of a part."""
    return Queries(
        histories=[known[user] for user in table.users],
        targets=table.items,
        num_items=table.num_items,
        cold=~trained[table.items],
        users=table.users,
    )
