"""Public data sets that are plain tables: each is a value for the one reader of tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evalrec.importing.times import Unit


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The form of the files of a public data set.

    Attributes:
        name: The name on the command line.
        title: The usual name of the data set.
        files: Its files of interactions and of items, in words.
        columns: The names of columns by what they hold, as in `TableOptions`.
        headers: The names of the columns of interactions, if the file has no header; of several
            layouts, the one with as many columns as the file is taken.
        item_headers: The same for the file of items.
        separator: The sign between cells.
        time_unit: The unit of its times; None detects it.
        literal: Whether its JSON lines are Python literals.
        split_categories: The sign between several categories in one text.
        unused_items: Whether items without interactions are kept.
        incomplete: Whether lines without user, item or time are an error.
        contradictions: Whether lines that describe one item differently are an error, or the first
            one counts.
    """

    name: str
    title: str
    files: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    headers: tuple[tuple[str, ...], ...] = ()
    item_headers: tuple[tuple[str, ...], ...] = ()
    separator: str | None = None
    time_unit: Unit | None = None
    literal: bool = False
    split_categories: str | None = None
    unused_items: Literal["keep", "drop"] = "drop"
    incomplete: Literal["refuse", "drop"] = "refuse"
    contradictions: Literal["refuse", "first"] = "first"


TABLE = Preset(
    name="table",
    title="a table",
    files="ORDERS, and perhaps CATALOGUE",
    unused_items="keep",
    contradictions="refuse",
)

STEAM = Preset(
    name="steam",
    title="Steam",
    files="steam_reviews.json.gz, steam_games.json.gz",
    columns={
        **{"user": ("username",), "item": ("product_id",), "time": ("date",)},
        **{"item_id": ("id",), "title": ("app_name",), "brand": ("developer",)},
        "categories": ("genres", "tags"),
    },
    literal=True,
    incomplete="drop",  # two of the games have no id
)
TAOBAO = Preset(
    name="taobao",
    title="Taobao",
    files="UserBehavior.csv",
    columns={"user": ("user_id",), "item": ("item_id",), "time": ("timestamp",)}
    | {"event": ("behavior",), "categories": ("category_id",)},
    headers=(("user_id", "item_id", "category_id", "behavior", "timestamp"),),
    separator=",",
    time_unit="s",
)
TMALL = Preset(
    name="tmall",
    title="Tmall (IJCAI 2015)",
    files="user_log_format1.csv",
    columns={"user": ("user_id",), "item": ("item_id",), "time": ("time_stamp",)}
    | {"event": ("action_type",), "categories": ("cat_id",), "brand": ("brand_id",)},
    separator=",",
    time_unit="any",  # month and day, such as 0829 or 829, of one year
)
GOWALLA = Preset(
    name="gowalla",
    title="Gowalla",
    files="loc-gowalla_totalCheckins.txt.gz",
    columns={"user": ("user",), "item": ("location_id",), "time": ("check_in_time",)},
    headers=(("user", "check_in_time", "latitude", "longitude", "location_id"),),
    separator="\t",
)
YOOCHOOSE = Preset(
    name="yoochoose",
    title="YooChoose (RecSys 2015)",
    files="yoochoose-clicks.dat or yoochoose-buys.dat",
    columns={"user": ("session_id",), "item": ("item_id",), "time": ("timestamp",)},
    headers=(
        # The published names of two columns mislead: the "category" is the context of a click, and
        # the "quantity" is 0 where it is not known.
        ("session_id", "timestamp", "item_id", "context"),
        ("session_id", "timestamp", "item_id", "price", "pieces"),
    ),
    separator=",",
)
MICROLENS = Preset(
    name="microlens",
    title="MicroLens",
    files="MicroLens-100k_pairs.csv, MicroLens-100k_title_en.csv",
    columns={"user": ("user",), "item": ("item",), "time": ("timestamp",)}
    | {"item_id": ("item",), "title": ("title",)},
    headers=(("user", "item", "timestamp"),),
    item_headers=(("item", "title"),),
    separator=",",
    time_unit="ms",
)
RETAILROCKET = Preset(
    name="retailrocket",
    title="Retailrocket",
    files="events.csv",
    columns={"user": ("visitorid",), "item": ("itemid",), "time": ("timestamp",)}
    | {"event": ("event",)},
    separator=",",
    time_unit="ms",
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (TABLE, STEAM, TAOBAO, TMALL, GOWALLA, YOOCHOOSE, MICROLENS, RETAILROCKET)
}
"""The tables that `plan_table` and `evalrec prepare` know by name; `table` is any other."""
