"""The users of a run: their stored histories, and newer interactions.

The run stores one row per user in the order of the data, which is read in parts. Newer interactions
come from a file. They are merged into the histories by time; interactions that the run already has
are skipped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semrec.shared.errors import ExperimentError
from semrec.shared.files import replacing
from semrec.shared.queries import Unknown, read_user_ids
from semrec.shared.stage import Facts, Setting, Stage

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from evalrec import Interactions
    from jaxtyping import Int

    from semrec.shared.data import Columns, Data
    from semrec.shared.screen import Screen

USERS_AT_ONCE = 4096
"""The number of users that are read and answered together."""

_UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}


@dataclass(frozen=True, kw_only=True)
class KeptUsers:
    """The users and item categories that a run stores.

    Attributes:
        histories: A parquet file with one row per user: "user", the id; "items", the item rows,
            oldest first; "times", their times.
        categories: The categories of each item row as one text; None without categories.
    """

    histories: Path
    categories: Sequence[str | None]


def users_stage(setting: Setting[Any]) -> Stage[KeptUsers]:
    """The stage "users", which `recommend --users` and `--diversify categories` read."""

    def fill(folder: Path) -> Facts:
        interactions = setting.data.interactions
        table = _by_user(interactions, interactions.items)
        _write(folder / "histories.parquet", table)
        categories = _categories(setting.data)
        _write(folder / "categories.parquet", categories)
        return {"users": table.height, "items": categories.height}

    def load(folder: Path) -> KeptUsers:
        import polars as pl

        with (folder / "categories.parquet").open("rb") as file:
            categories = pl.read_parquet(file)["category"].to_list()
        return KeptUsers(histories=folder / "histories.parquet", categories=categories)

    return setting.stage("users", reads=(), fill=fill, load=load)


def _by_user(interactions: Interactions, rows: Int[np.ndarray, " interactions"]) -> pl.DataFrame:
    """One row per user: its id, its item rows oldest first, and their times.

    Args:
        interactions: Ordered by user, and then by time.
        rows: The item row of each interaction; -1 for those that are left out.
    """
    import polars as pl

    is_kept = pl.col("items") >= 0
    columns = {"owner": interactions.users, "items": rows, "times": interactions.timestamps}
    lists = (
        pl.DataFrame(columns)
        .group_by("owner", maintain_order=True)
        .agg(pl.col("items").filter(is_kept).cast(pl.Int32), pl.col("times").filter(is_kept))
    )
    ids = [interactions.user_ids[owner] for owner in lists["owner"]]
    return lists.select(pl.Series("user", ids, dtype=pl.String), "items", "times")


def _categories(data: Data) -> pl.DataFrame:
    import polars as pl

    texts: list[str] = [""] * len(data.catalog)
    if "categories" in data.catalog.fields:
        texts = data.catalog.texts(("categories",))
    return pl.DataFrame({"category": [text or None for text in texts]}, {"category": pl.String})


def _write(path: Path, table: pl.DataFrame) -> None:
    with replacing(path) as beside, beside.open("wb") as file:
        table.write_parquet(file, row_group_size=USERS_AT_ONCE)


@dataclass(frozen=True, kw_only=True)
class LaterInteractions:
    """Newer interactions with items that the run knows.

    Attributes:
        table: One row per user, like the histories of a run, with times in the run's unit.
        unknown: The number of interactions with items that the run does not know.
        unknown_item: One of these items.
    """

    table: pl.DataFrame
    unknown: int = 0
    unknown_item: str | None = None


def read_later(
    path: Path, columns: Columns, rows: Mapping[str, int], histories: Path, screen: Screen
) -> LaterInteractions:
    """Reads newer interactions from any table that `evalrec prepare table` reads.

    Args:
        path: The file, or a folder that `evalrec prepare` wrote.
        columns: The column names of the run's own file, if its configuration sets them; otherwise
            columns are recognised by their names.
        rows: The row of each item.
        histories: The stored histories of the run, whose times show their unit.
        screen: Shows the progress.

    Raises:
        ExperimentError: The file cannot be read, or its times cannot be compared with the run's.
    """
    import polars as pl

    place = f"--interactions {path}"
    try:
        table = _read_table(path, columns, screen)
    except ValueError as error:  # DataError is a subclass
        raise ExperimentError(
            f"{place}: {error} (`evalrec prepare table` has options for this; --interactions also "
            "reads the folder that it writes)"
        ) from error
    item_rows = _rows(table, rows)
    unknown_items = table.items[item_rows < 0]
    latest = pl.scan_parquet(histories.resolve(), glob=False).select(
        pl.col("times").list.max().max()
    )
    per_second, run_per_second = (
        _ticks_of_a_second(largest)
        for largest in (int(table.timestamps.max()), latest.collect().item())
    )
    if (per_second is None) != (run_per_second is None):
        raise ExperimentError(
            f"{place}: its times are {_in_words(per_second)}, those of the run "
            f"{_in_words(run_per_second)}: write them in the unit of the run's data"
        )
    frame = _by_user(table, item_rows)
    if per_second and run_per_second and per_second != run_per_second:
        times = pl.col("times").list.eval(pl.element() * run_per_second // per_second)
        frame = frame.with_columns(times)
    return LaterInteractions(
        table=frame,
        unknown=len(unknown_items),
        unknown_item=table.item_ids[int(unknown_items[0])] if len(unknown_items) else None,
    )


def _rows(table: Interactions, rows: Mapping[str, int]) -> Int[np.ndarray, " interactions"]:
    """The run's item row of each interaction in a table; -1 for unknown items."""
    import numpy as np

    known = np.array([rows.get(item_id, -1) for item_id in table.item_ids])  # [items]
    item_rows: Int[np.ndarray, " interactions"] = known[table.items]
    return item_rows


def _read_table(path: Path, columns: Columns, screen: Screen) -> Interactions:
    """The interactions of a table or of a native folder.

    Raises:
        ValueError: The interactions cannot be read.
    """
    from evalrec import (
        PrepareOptions,
        TableOptions,
        find_interactions,
        plan_table,
        prepare_table,
        read_interactions,
    )

    source = find_interactions(path) if path.is_dir() else path
    names = {"user": columns.user, "item": columns.item, "time": columns.timestamp}
    is_named = columns != type(columns)()
    options = TableOptions(
        columns={key: (name,) for key, name in names.items()} if is_named else {}
    )
    plan = plan_table(source, options=options)
    with tempfile.TemporaryDirectory() as folder, screen.bar(f"{path}") as bar:
        prepared = prepare_table(
            plan,
            Path(folder) / "table",
            options=PrepareOptions(k_core=1),
            progress=lambda stage, done, total: bar.update(done, total, stage),
        )
        return read_interactions(find_interactions(prepared.folder))


def _ticks_of_a_second(largest: int) -> int | None:
    """The unit of times since 1970, guessed from the largest; None for an unknown unit."""
    for per_second in _UNITS:
        if 10**8 * per_second <= largest < 10**11 * per_second:
            return per_second
    return None


def _in_words(per_second: int | None) -> str:
    return (
        "numbers of no known unit" if per_second is None else f"in {_UNITS[per_second]} since 1970"
    )


class ChosenUsers:
    """The users to answer, in parts: first those of the run, then new ones.

    Args:
        histories: The file of `KeptUsers.histories`.
        later: Newer interactions; None for none.
        names: The value of `--users`: "all", a file, or ids.
        unknown: How unknown user ids, and newer interactions with unknown items, are handled.

    Attributes:
        num_unknown: The number of skipped ids.

    Raises:
        ExperimentError: An unknown id or item is refused, or no id is known.
    """

    def __init__(
        self, histories: Path, later: LaterInteractions | None, names: str, unknown: Unknown
    ) -> None:
        import polars as pl

        self.kept = pl.scan_parquet(histories.resolve(), glob=False)
        if later is not None and unknown == "error" and later.unknown_item is not None:
            raise ExperimentError(
                f"--interactions must be of the run's items, got {later.unknown_item!r}: "
                "--unknown skip ignores others"
            )
        self.later: pl.DataFrame | None = None if later is None else later.table
        ids = self.kept.select("user").collect()["user"]
        self.num_unknown = 0
        if self.later is not None:
            ids = pl.concat([ids, self.later.filter(~pl.col("user").is_in(ids.implode()))["user"]])
        if names != "all":
            ids = self._named(names, ids, unknown)
            self.kept = self.kept.filter(pl.col("user").is_in(ids.implode())).collect().lazy()
        self.num_kept: int = self.kept.select(pl.len()).collect().item()
        self.count = len(ids)
        kept_ids = self.kept.select("user").collect()["user"]
        self.new = ids.filter(~ids.is_in(kept_ids.implode()))

    def _named(self, names: str, ids: pl.Series, unknown: Unknown) -> pl.Series:
        """The ids that `--users` names."""
        import polars as pl

        known = set(ids)
        wanted = read_user_ids(names, known)
        strangers = [user for user in wanted if user not in known]
        if strangers and unknown == "error":
            raise ExperimentError(
                f"--users must be users of the run, got {strangers[0]!r}: --unknown skip ignores "
                "others"
            )
        if len(strangers) == len(wanted):
            is_file = Path(names).is_file()
            no_file = "" if is_file else ", and there is no file of that name"
            raise ExperimentError(
                f"--users {names}: the run knows none of {len(wanted):,} ids{no_file}"
            )
        self.num_unknown = len(strangers)
        return ids.filter(ids.is_in(pl.Series(wanted).implode()))

    @property
    def num_parts(self) -> int:
        """The number of parts."""
        return -(-self.count // USERS_AT_ONCE)

    def part(self, number: int) -> list[tuple[str, list[int]]]:
        """The ids of the users of a part, each with its item rows, oldest first."""
        import polars as pl

        start, stop = number * USERS_AT_ONCE, (number + 1) * USERS_AT_ONCE
        table = self.kept.slice(start, USERS_AT_ONCE).collect()
        new = self.new[max(start - self.num_kept, 0) : max(stop - self.num_kept, 0)]
        if self.later is None:
            return list(zip(table["user"], table["items"].to_list(), strict=True))
        table = pl.concat([table, pl.DataFrame({"user": new})], how="diagonal")
        both = table.join(self.later, on="user", how="left", maintain_order="left", suffix="_later")
        return [
            (user, merged(items or [], times or [], later or [], later_times or []))
            for user, items, times, later, later_times in both.iter_rows()
        ]


def merged(
    items: Sequence[int],
    times: Sequence[int],
    later_items: Sequence[int],
    later_times: Sequence[int],
) -> list[int]:
    """A history merged with newer interactions by time; at equal times the run's own come first.

    An interaction that the run already has (same item and time) is skipped.
    """
    known = set(zip(times, items, strict=True))
    fresh = [pair for pair in zip(later_times, later_items, strict=True) if pair not in known]
    both = [*zip(times, items, strict=True), *fresh]
    return [item for _, item in sorted(both, key=lambda pair: pair[0])]
