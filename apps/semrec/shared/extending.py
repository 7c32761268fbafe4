"""`extend`: adds new items to a run between two updates, without interactions and training.

It is an update whose current data are the catalogue and histories stored in the run, followed by
the new items. Published codes stay, new items get free codes, and methods that know items by their
content can recommend them at once. Beyond the papers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import typer
from evalrec import Interactions, leave_one_out
from semtok import Catalog, read_catalog

from semrec.shared.catalogue import CATALOGUE_FILE, contents
from semrec.shared.data import Data
from semrec.shared.errors import ExperimentError
from semrec.shared.screen import Screen
from semrec.shared.text import visible
from semrec.shared.update_config import Update

if TYPE_CHECKING:
    from semrec.shared.app import App
    from semrec.shared.pipeline import Pipeline
    from semrec.shared.updating import UpdateStages

_BY_WORDS = ("text", "graph + text")
"""The floors that can rank an item without interactions."""


def extend(
    app: App[Any, Any],
    run: Path,
    items: Path,
    out: Path,
    device: str,
    trust: Collection[str] = (),
) -> None:
    """Makes a run with new items from another run, and prints how they are ranked.

    Args:
        app: The app of the run.
        run: A complete run; it is only read.
        items: The file of the new items, as `semtok.read_catalog` reads it.
        out: The folder of the new run.
        device: As `choose_device` takes it.
        trust: The packages whose code may run.

    Raises:
        CatalogError: The items cannot be read or embedded.
        ExperimentError: The run cannot be extended, an item is not new, or `out` holds something
            else.
    """

    def read(old: Pipeline[Any], screen: Screen) -> Data:
        return kept_and_new(old, items, screen)

    place, update = f"--items {items}", Update(train=False)
    pipeline = app.open_grown(run, read, place, out, update, device, extends=True, trust=trust)
    app.complete(pipeline)
    typer.echo(visible(sentence(pipeline)))
    typer.echo(visible(f"report: {pipeline.run.path / 'report.html'}"))


def kept_and_new(old: Pipeline[Any], items: Path, screen: Screen) -> Data:
    """The data stored in a run, with new items after its own.

    Args:
        old: The run, reopened.
        items: The file of the new items.
        screen: Shows how many items there are.

    Raises:
        CatalogError: The items cannot be read.
        ExperimentError: The run stores no catalogue, or an item is not new.
    """
    if not items.is_file():  # it is read twice, once for its hash
        raise ExperimentError(f"--items must be a file, got {items}")
    catalogue, users = old.kept_catalogue(), old.kept_users()
    kept = catalogue.result()
    read = read_catalog(items, id_column=old.config.columns.catalog_item)
    catalog, num_known = with_new(kept, read, f"--items {items}", old.run.path)
    interactions = kept_interactions(users.histories, catalog.item_ids)
    known = f", {num_known:,} that the run has already, skipped" if num_known else ""
    screen.say(f"items: {len(catalog) - len(kept):,} new{known}")
    return Data(
        catalog=catalog,
        interactions=interactions,
        split=leave_one_out(interactions),
        files=(catalogue.file(CATALOGUE_FILE), users.histories, items),
    )


def with_new(kept: Catalog, read: Catalog, place: str, run: Path) -> tuple[Catalog, int]:
    """A catalogue with new items after its own, and the number of items that it already had.

    Args:
        kept: The catalogue of the run.
        read: The new items. Items that the run has with the same fields are skipped.
        place: The name of the new items in error messages.
        run: The run's folder.

    Raises:
        ExperimentError: The run has one of these ids with other fields, or has all of the items.
    """
    rows = {item_id: row for row, item_id in enumerate(kept.item_ids)}
    known = [row for row, item_id in enumerate(read.item_ids) if item_id in rows]
    if known:
        there = contents(kept.take([rows[read.item_ids[row]] for row in known]))
        for row, before, now in zip(known, there, contents(read.take(known)), strict=True):
            if before != now:
                raise ExperimentError(
                    f"{place} must hold new items, got {read.item_ids[row]!r}, which {run} has "
                    "with other fields: leave it out, the next update reads what has changed"
                )
    if len(known) == len(read):
        raise ExperimentError(f"{place} must hold new items, got {len(read):,} that {run} has")
    new = read.take([row for row, item_id in enumerate(read.item_ids) if item_id not in rows])
    fields = {
        name: [*_values(kept, name), *_values(new, name)]
        for name in dict.fromkeys([*kept.fields, *new.fields])
    }
    ids = [*kept.item_ids, *new.item_ids]
    return Catalog(item_ids=ids, fields=fields, folder=kept.folder), len(known)


def _values(catalog: Catalog, name: str) -> Sequence[object]:
    return catalog.fields.get(name, [None] * len(catalog))


def kept_interactions(histories: Path, item_ids: Sequence[str]) -> Interactions:
    """The interactions that a run was made from, in their order.

    Args:
        histories: The file of `KeptUsers.histories`.
        item_ids: The item ids of the run, followed by those of new items.
    """
    with histories.open("rb") as file:
        table = pl.read_parquet(file)
    lengths = table["items"].list.len().to_numpy()
    return Interactions(
        users=np.repeat(np.arange(table.height), lengths),
        items=table["items"].explode().to_numpy(),
        timestamps=table["times"].explode().to_numpy(),
        user_ids=tuple(table["user"]),
        item_ids=tuple(item_ids),
    )


def sentence(pipeline: UpdateStages[Any]) -> str:
    """How many items are new, how far they are from their codes, and how they are ranked."""
    floors = list(pipeline.floors.complete()["parameters"])
    by_words = [name for name in floors if name in _BY_WORDS]
    others = [name for name in floors if name not in _BY_WORDS]
    drift = pipeline.drift().get("drift_words")
    parts = [
        f"{int(pipeline.news.is_new.sum()):,} new items",
        *([drift] if drift else []),
        f"until the next update {pipeline.ranks_new}",
        *([f"the floors {_listed(by_words)} by their words"] if by_words else []),
        f"{_listed(others)} know no purchase of them and rank them last",
    ]
    if pipeline.answers_by is not None:
        parts.append(f"recommend answers by {pipeline.answers_by}")
    return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
