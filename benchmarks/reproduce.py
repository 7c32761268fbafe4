"""Amazon Beauty from its raw files to the README's numbers: `make reproduce-beauty DATA=FOLDER`.

    .venv/bin/python benchmarks/reproduce.py DATA --out runs/reproduced

DATA holds the public files `reviews_Beauty_5.json.gz` and `meta_Beauty.json.gz`. They are prepared
(`evalrec prepare amazon2014`), counted, and compared with the sequences of papers since S3-Rec: if
users and items are numbered in the order of their first appearance, the sequences must equal the
public file `data/Beauty.txt` of aHuiWang/CIKM2020-S3Rec, byte for byte. Then PRORec runs with its
default configuration.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from evalrec import DataError, Interactions, PrepareOptions, prepare, read_interactions

ROOT = Path(__file__).resolve().parents[1]
RAW = ("reviews_Beauty_5.json.gz", "meta_Beauty.json.gz")
COUNTS = (22_363, 12_101, 198_502)
SEQUENCES_SHA256 = "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8"


def numbered_sequences(table: Interactions) -> str:
    """One line per user: its number, then its items' numbers, oldest first.

    Users and items are numbered in the order of their first appearance.
    """
    lines, numbers = [], dict[int, int]()
    for user, row in enumerate(np.split(table.items, np.flatnonzero(np.diff(table.users)) + 1), 1):
        items = [numbers.setdefault(item, len(numbers) + 1) for item in row.tolist()]
        lines.append(" ".join(map(str, [user, *items])))
    return "\n".join(lines) + "\n"


def check(table: Interactions) -> str:
    """Says whether the prepared data has the sequences of the published numbers.

    Raises:
        SystemExit: Its numbers of users, items or interactions are different.
    """
    counts = (table.num_users, table.num_items, len(table))
    if counts != COUNTS:
        raise SystemExit(
            "the figures are of {:,} users, {:,} items and {:,} interactions, ".format(*COUNTS)
            + "this data has {:,}, {:,} and {:,}".format(*counts)
        )
    digest = hashlib.sha256(numbered_sequences(table).encode()).hexdigest()
    if digest == SEQUENCES_SHA256:
        return "the sequences are those of the published figures"
    return (
        f"the sequences are not those of the published figures (SHA-256 {digest}, which should be "
        f"{SEQUENCES_SHA256}): figures may differ"
    )


def main(
    data: Annotated[Path, typer.Argument(help="The folder of the raw files.")],
    out: Annotated[Path, typer.Option(help="Folder for data and run.")] = Path("runs/reproduced"),
    prepare_only: Annotated[bool, typer.Option(help="Stop before the training.")] = False,
) -> None:
    """Prepares, checks and runs."""
    missing = [name for name in RAW if not (data / name).is_file()]
    if missing:
        raise SystemExit(
            f"{data} lacks {' and '.join(missing)}; docs/papers/reproduce.md says where to get it"
        )
    prepared = out / "data"
    try:
        if not (prepared / "dataset.json").is_file():
            out.mkdir(parents=True, exist_ok=True)
            files = [data / name for name in RAW]
            made = prepare("amazon2014", files, prepared, options=PrepareOptions(k_core=5))
            typer.echo(f"wrote {prepared}, content {made.content_sha256[:12]}")
        typer.echo(check(read_interactions(prepared / "interactions.parquet")))
    except DataError as error:
        raise SystemExit(str(error)) from None
    command = [ROOT / "apps" / "prorec.py", "run", "--data", prepared, "--out", out / "beauty"]
    if prepare_only:
        typer.echo("next: " + " ".join(map(str, command)))
        return
    sys.exit(subprocess.run([sys.executable, *command], check=False).returncode)


if __name__ == "__main__":
    typer.run(main)
