"""Amazon Beauty or Games from raw files to figures: `make reproduce-beauty DATA=FOLDER`.

    .venv/bin/python benchmarks/reproduce.py DATA --data-set games --out runs/reproduced

DATA holds the public files of the data set. They are prepared (`evalrec prepare`), counted, and
compared with the data that the figures are of, by a digest:

- of Beauty, the sequences that papers since S3-Rec have used: users and items numbered as they
  first appear, they must be the file `data/Beauty.txt` of aHuiWang/CIKM2020-S3Rec, byte for byte;
- of Games, the pairs of a user and an item. LC-Rec's script leaves the order within a day to
  chance, so nobody can make the same sequences again.

Then PRORec runs as it is by default.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from evalrec import PUBLISHED, DataError, Interactions, PrepareOptions, prepare, read_interactions

ROOT = Path(__file__).resolve().parents[1]


def numbered_sequences(table: Interactions) -> str:
    """One line per user: its number, then its items' numbers, oldest first.

    Users and items are numbered in the order of their first appearance.
    """
    lines, numbers = [], dict[int, int]()
    for user, row in enumerate(np.split(table.items, np.flatnonzero(np.diff(table.users)) + 1), 1):
        items = [numbers.setdefault(item, len(numbers) + 1) for item in row.tolist()]
        lines.append(" ".join(map(str, [user, *items])))
    return "\n".join(lines) + "\n"


def pairs(table: Interactions) -> str:
    """A line an interaction, the ids of its user and its item, in the order of the alphabet."""
    ids = zip(table.users.tolist(), table.items.tolist(), strict=True)
    return "".join(sorted(f"{table.user_ids[user]} {table.item_ids[item]}\n" for user, item in ids))


@dataclass(frozen=True, kw_only=True)
class Reproduced:
    """A data set of the figures.

    Attributes:
        format: Of its raw files.
        files: The raw files.
        options: What is kept of them.
        counts: Users, items and interactions.
        text: What is compared, of the interactions.
        compared: What that is, in words.
        sha256: Of the text of the figures' data.
    """

    format: str
    files: tuple[str, ...]
    options: PrepareOptions
    counts: tuple[int, ...]
    text: Callable[[Interactions], str]
    compared: str
    sha256: str


SETS = {
    "beauty": Reproduced(
        format="amazon2014",
        files=("reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"),
        options=PrepareOptions(),
        counts=(22_363, 12_101, 198_502),
        text=numbered_sequences,
        compared="sequences",
        sha256="226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
    ),
    "games": Reproduced(
        format="amazon2018",
        files=("Video_Games.csv", "meta_Video_Games.json.gz"),
        options=PUBLISHED["lcrec-games"].options,
        counts=tuple(PUBLISHED["lcrec-games"].counts.values()),
        text=pairs,
        compared="pairs of a user and an item",
        sha256="ca50b934e2d10fa5a46d82feb168456db7b4970e4911cadeb099efb70208e026",
    ),
}


def check(known: Reproduced, table: Interactions) -> str:
    """What there is to say of the interactions of the prepared data.

    Raises:
        SystemExit: Its numbers of users, items or interactions are different.
    """
    counts = (table.num_users, table.num_items, len(table))
    if counts != known.counts:
        raise SystemExit(
            "the figures are of {:,} users, {:,} items and {:,} interactions, ".format(
                *known.counts
            )
            + "this data has {:,}, {:,} and {:,}".format(*counts)
        )
    digest = hashlib.sha256(known.text(table).encode()).hexdigest()
    if digest == known.sha256:
        return f"the {known.compared} are those of the published figures"
    return (
        f"the {known.compared} are not those of the published figures (SHA-256 {digest}, which "
        f"should be {known.sha256}): figures may differ"
    )


def main(
    data: Annotated[Path, typer.Argument(help="The folder of the raw files.")],
    out: Annotated[Path, typer.Option(help="Folder for data and run.")] = Path("runs/reproduced"),
    prepare_only: Annotated[bool, typer.Option(help="Stop before the training.")] = False,
    data_set: Annotated[
        Literal["beauty", "games"], typer.Option(help="Which data the raw files are of.")
    ] = "beauty",
) -> None:
    """Prepares, checks and runs."""
    known = SETS[data_set]
    missing = [name for name in known.files if not (data / name).is_file()]
    if missing:
        raise SystemExit(
            f"{data} lacks {' and '.join(missing)}; docs/papers/reproduce.md says where to get it"
        )
    prepared = out / ("data" if data_set == "beauty" else f"{data_set}-data")
    try:
        if not (prepared / "dataset.json").is_file():
            out.mkdir(parents=True, exist_ok=True)
            files = [data / name for name in known.files]
            made = prepare(known.format, files, prepared, options=known.options)
            typer.echo(f"wrote {prepared}, content {made.content_sha256[:12]}")
        typer.echo(check(known, read_interactions(prepared / "interactions.parquet")))
    except DataError as error:
        raise SystemExit(str(error)) from None
    command = [ROOT / "apps" / "prorec.py", "run", "--data", prepared, "--out", out / data_set]
    if prepare_only:
        typer.echo("next: " + " ".join(map(str, command)))
        return
    sys.exit(subprocess.run([sys.executable, *command], check=False).returncode)


if __name__ == "__main__":
    typer.run(main)
